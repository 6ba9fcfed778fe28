"""Trained generators as files that run without this library."""
