"""The request of a call, and its result."""
