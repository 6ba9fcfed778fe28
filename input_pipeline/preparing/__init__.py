"""What `input_pipeline.prepare` does to pictures and how it splits them."""
