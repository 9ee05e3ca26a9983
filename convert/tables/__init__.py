"""What each network's tensors are called and how they lie, in every spelling and in MLX."""
