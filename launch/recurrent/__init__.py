"""Tasks over time in one process."""
