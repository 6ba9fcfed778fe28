"""Checkpoints: reading, writing, finding, and what may be resumed."""
