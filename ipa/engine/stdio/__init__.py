"""The engine in a process of its own: JSON-RPC 2.0 over standard input and output."""
