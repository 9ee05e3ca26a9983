"""`ipa-mlx doctor`: whether this machine computes as it should, and how fast."""
