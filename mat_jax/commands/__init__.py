"""The command `mat-jax`: the composition root of the library, as main.py is of training."""
