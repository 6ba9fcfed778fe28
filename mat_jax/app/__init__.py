"""The page to draw holes on, for the extra `app`; what computes here does without Gradio."""
