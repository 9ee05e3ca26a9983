"""What a pipeline is asked beside plain pictures, and whose turn it is."""
