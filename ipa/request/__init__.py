"""What is asked of a pipeline, and what it gives back."""
