"""Configurations: one file per data set, each with a `get_config()`."""
