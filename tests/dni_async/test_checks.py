from __future__ import annotations

from typing import Any

import pytest

from dni_async.checks import at_least
from dni_async.errors import UserError


def test_a_number_that_is_large_enough_is_returned() -> None:
    assert at_least(1, width=3) == 3
    assert at_least(0, depth=4, width=0) == 0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"depth": 1, "width": -3}, "width is -3; it must be at least 1"),
        ({"width": 1.5}, "width is 1.5; it must be a whole number of at least 1"),
        ({"width": True}, "width is True; it must be a whole number of at least 1"),
        ({"width": None}, "width is None; it must be a whole number of at least 1"),
        ({"width": "3"}, "width is '3'; it must be a whole number of at least 1"),
    ],
)
def test_any_other_setting_is_named_in_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        at_least(1, **settings)
    assert str(error.value) == line
