"""Training runs: start, loop, logs; `step` has the training step."""
