"""Control pictures: outlines, sizes, and when they act."""
