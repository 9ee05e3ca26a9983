"""Samplers: every step as a row of numbers."""
