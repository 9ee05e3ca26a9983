"""The networks in MLX. They know nothing of pipelines."""
