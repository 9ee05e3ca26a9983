"""Mutants of files of weights against the readers: `make fuzz`."""
