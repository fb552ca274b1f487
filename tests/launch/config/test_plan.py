"""A plan's settings; and for how many stages it predicts."""

from __future__ import annotations

from typing import Any

import pytest

from dni_async.errors import UserError
from launch.config.plan import PlanConfig


def test_repeated_layers_make_room_for_a_thousand_stages() -> None:
    assert max(PlanConfig.of().counts(1028)) == 1024


def test_hosts_that_are_far_apart_are_linked_by_tcp_unless_something_else_is_given() -> None:
    assert PlanConfig.of(wan="25,1000").runtime.transport == "tcp"
    assert PlanConfig.of(wan="25,1000", transport="dist").runtime.transport == "dist"
    assert PlanConfig.of().runtime.transport == "auto" and PlanConfig.of().wire is None


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"stages": 1}, "stage-counts has 1; a plan needs at least 2 stages"),
        ({"stage_counts": (4, 0)}, "stage-counts has 0; a plan needs at least 2 stages"),
        ({"stage_counts": (4,), "stages": 2}, "both --stages and --stage-counts are given; leave one out"),
        ({"engines": ("magic",)}, "unknown engine (magic); use one of backprop, ddp, gpipe, 1f1b, "),
        ({"engines": ()}, "no engines given; name some, such as --engines backprop cdni"),
        ({"wan": "25"}, "wan is 25; write LATENCY_MS,MBIT"),
        ({"repeat_layers": -1}, "repeat-layers is -1; it must be at least 0"),
        ({"transport": "shm,dist"}, "transport is shm,dist; a plan takes one for all links"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        PlanConfig.of(**settings)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["precision", "compile", "cut", "patience", "until", "evaluations"])
def test_a_plan_has_no_setting_of_what_it_does_not_do(name: str) -> None:
    assert name not in PlanConfig.setting_names()
