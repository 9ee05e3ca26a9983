"""Writing for MLX, and back: whole or not at all, with a record, and verified."""
