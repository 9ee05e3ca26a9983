"""Comparisons: two runs, stage by stage, against limits."""
