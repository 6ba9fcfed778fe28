"""Which squares of a picture the network gets to see, and in which order (no JAX)."""
