"""The version of this project: here, and nowhere else."""

__version__ = "0.1.0"
