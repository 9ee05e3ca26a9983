"""The judges: other people's code (diffusers, transformers) on fresh random weights."""
