"""What a stage takes in memory, foretold: its graph is traced, and walked as MLX walks it."""
