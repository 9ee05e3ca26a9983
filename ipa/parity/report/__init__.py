"""Reports of a comparison: words, JSON, JUnit, a page."""
