"""Help of the command line: panels, examples, and errors in its words."""
