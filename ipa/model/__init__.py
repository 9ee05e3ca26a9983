"""The words of the domain: what every backend and every tool agrees on. No mlx, no torch."""
