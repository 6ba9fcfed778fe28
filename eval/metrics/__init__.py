"""Metrics of pairs of images and of sets of images, with their intervals."""
