"""Everything that can be set on a command line."""
