"""Captures: what a run was, stage by stage, in a file."""
