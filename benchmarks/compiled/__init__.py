"""Benchmarks by ahead-of-time compilation for TPUs and GPUs that need not be there."""
