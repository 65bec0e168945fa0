"""An examination as text, as JSON and as a page with pictures."""
