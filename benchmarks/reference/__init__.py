"""The networks and training phases whose published results `tests/golden` has."""
