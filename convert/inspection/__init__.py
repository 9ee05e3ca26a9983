"""Saying what a file or folder is, from names and shapes."""
