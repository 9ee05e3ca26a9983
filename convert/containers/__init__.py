"""Files of weights: what they hold by name, read strictly and lazily, never run."""
