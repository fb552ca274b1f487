"""Which steps are profiled."""

from __future__ import annotations

import pytest

from dni_async.errors import UserError
from launch.config.train import TrainConfig


def test_the_last_step_is_left_out() -> None:
    config = TrainConfig.of(profile="100:110", out="runs/a")
    assert list(config.logging.profiled_steps()) == list(range(100, 110))
    assert not TrainConfig.of().logging.profiled_steps()


@pytest.mark.parametrize("text", ["100", "x:y", "5:5", "7:3", "-1:3", ":", "1:2:3"])
def test_another_form_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as error:
        TrainConfig.of(profile=text, out="runs/a")
    assert str(error.value) == f"profile is {text}; write FIRST:END, such as 100:110"


def test_a_profile_needs_a_folder() -> None:
    with pytest.raises(UserError, match="profile writes to the folder of the run; give one with --out"):
        TrainConfig.of(profile="1:2")
