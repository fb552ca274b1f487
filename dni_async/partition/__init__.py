"""Where a network is cut into stages, and what its layers cost."""
