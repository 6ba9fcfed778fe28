"""The training step: its settings, its state, the pure functions it is made of, and its compilation."""
