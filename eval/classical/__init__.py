"""Classical inpainting methods, which fill a hole from the rest of the same picture."""
