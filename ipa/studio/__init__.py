"""The studio: a page for people over the server, and the folder of what they made with it."""
