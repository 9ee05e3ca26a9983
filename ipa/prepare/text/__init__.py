"""Prompts: from words to tokens and weights."""
