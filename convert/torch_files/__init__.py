"""Files of `torch.save` and pickles of NumPy arrays: read without running them, and written."""
