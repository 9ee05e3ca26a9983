"""Image prompts: from pictures and faces to what an adapter is given."""
