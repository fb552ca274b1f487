from __future__ import annotations

import torch

from tasks.vision.distortion import distorted_copies


def images() -> torch.Tensor:
    """Three images with a bright square in the middle."""
    made = torch.zeros(3, 1, 28, 28)
    made[:, :, 10:18, 10:18] = 1.0
    return made


def test_the_first_copy_is_the_images_as_they_are() -> None:
    made = distorted_copies(images(), 4)
    assert made.shape == (12, 1, 28, 28)
    assert torch.equal(made[:3], images())


def test_every_distorted_image_is_another_one_and_about_as_bright() -> None:
    made = distorted_copies(images(), 4)
    for i in range(12):
        assert 0.7 < made[i].sum() / 64 < 1.35
        assert all(not torch.equal(made[i], made[j]) for j in range(max(3, i + 1), 12))


def test_the_same_seed_gives_the_same_images_and_another_one_others() -> None:
    same, other = distorted_copies(images(), 2), distorted_copies(images(), 2, seed=1)
    assert torch.equal(distorted_copies(images(), 2), same)
    assert not torch.equal(same[3:], other[3:])


def test_values_stay_between_background_and_brightest_pixel() -> None:
    made = distorted_copies(images(), 5)
    assert made.min() >= 0 and made.max() <= 1 + 1e-6
