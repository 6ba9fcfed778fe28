"""The operations that differ by platform."""
