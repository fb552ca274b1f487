"""Language models of characters and words."""
