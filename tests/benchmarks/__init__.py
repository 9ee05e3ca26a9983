"""Measurements at the true sizes of Stable Diffusion 1.5: too slow for the tests, run by `make`."""
