"""`ipa-mlx parity`: captures and comparisons."""
