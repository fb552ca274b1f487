"""Looks at pictures for the tests."""

import matplotlib.image
import numpy as np


def pixels(path):
    """(height, width, 3) of 0..255."""
    assert path.read_bytes().startswith(b"\x89PNG")
    return np.rint(255 * matplotlib.image.imread(path)[..., :3]).astype(int)


def share(image, colour):
    """Of the pixels that have (nearly) this colour."""
    return (np.abs(image - colour).max(-1) <= 3).mean()
