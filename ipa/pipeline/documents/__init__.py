"""Requests as JSON: how they are read, where their pictures come from, and their schema."""
