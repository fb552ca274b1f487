"""Tasks over time."""
