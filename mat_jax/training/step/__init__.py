"""One training step as pure functions: augmentation, losses, gradients, and the update."""
