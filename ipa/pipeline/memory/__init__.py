"""The memory of runs: settled before they start, and kept to while they run."""
