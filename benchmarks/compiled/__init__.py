"""Programs compiled for TPUs and GPUs that need not be there."""
