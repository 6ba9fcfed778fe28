"""Completing images with a trained generator."""
