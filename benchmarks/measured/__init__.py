"""Benchmarks that run on the machine at hand."""
