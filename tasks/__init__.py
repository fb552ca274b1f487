"""What is trained: models and data."""
