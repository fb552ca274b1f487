"""Synthetic gradients through time, for recurrent networks."""
