"""What stands before every route: pure ASGI, so that nothing is read for a stranger."""
