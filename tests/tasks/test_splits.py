"""The last training samples to validate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dni_async.errors import UserError
from tasks.splits import split_off


@pytest.mark.parametrize("of", [torch.arange, np.arange])
def test_the_last_samples_are_held_out(of) -> None:  # type: ignore[no-untyped-def]
    (x, y), (x_out, y_out) = split_off(2, of(5), of(10, 15))
    assert (x.tolist(), y.tolist()) == ([0, 1, 2], [10, 11, 12])
    assert (x_out.tolist(), y_out.tolist()) == ([3, 4], [13, 14])


def test_zero_samples_may_be_held_out() -> None:
    (x, _), (x_out, _) = split_off(0, torch.arange(5), torch.arange(5))
    assert (len(x), len(x_out)) == (5, 0)


@pytest.mark.parametrize("count", [5, 6])
def test_holding_out_all_samples_is_refused(count: int) -> None:
    with pytest.raises(UserError) as error:
        split_off(count, torch.arange(5), torch.arange(5))
    assert str(error.value) == f"nothing is left to train on (validation={count}): give 4 or less"
