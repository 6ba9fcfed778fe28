"""The training step, the training loop, metrics and logs."""
