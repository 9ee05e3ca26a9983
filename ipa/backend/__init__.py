"""What a framework must do to be a backend."""
