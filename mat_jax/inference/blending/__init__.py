"""Completions without a visible border (no JAX)."""
