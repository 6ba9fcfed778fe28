"""The networks: generator, discriminators and their layers."""
