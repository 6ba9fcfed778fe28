"""Comparing folders of images: `python -m eval.folders`."""
