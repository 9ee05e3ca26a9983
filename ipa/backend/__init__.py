"""The interface between the pipeline and a framework."""
