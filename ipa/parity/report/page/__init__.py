"""The page of the HTML report: its parts, and the style and script inside it."""
