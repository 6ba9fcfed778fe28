"""Benchmarks beside the published PyTorch code, and beside other programs that run MAT."""
