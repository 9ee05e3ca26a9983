"""Original files, read for the reference by torch, diffusers and our own spellings."""
