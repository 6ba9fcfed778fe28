"""Devices, processes and signals, and pictures in files."""
