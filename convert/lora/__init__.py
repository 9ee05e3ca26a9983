"""LoRA files: names looked up in tables of all spellings, pairs of matrices, scales."""
