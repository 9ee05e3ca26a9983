"""What a network asks of a device: its graph, traced without weights and without running."""
