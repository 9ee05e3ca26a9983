"""A supervisor of a worker: starts it, watches it, starts it again, and loses no job."""
