"""Channels between stages, all behind the contract of `base`."""
