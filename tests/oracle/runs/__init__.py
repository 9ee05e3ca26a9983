"""Runs that diffusers judges: for each kind a table of cases, and both sides of every case."""
