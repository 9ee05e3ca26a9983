"""What `ipa.bench` measures on MLX: random models, other programs, the machine itself."""
