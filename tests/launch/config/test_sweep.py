"""Which settings a sweep varies, and what a user may get wrong."""

from __future__ import annotations

import pytest

from dni_async.errors import UserError
from launch.config.sweep import parse_sweep, parse_varied


def test_every_combination_is_a_configuration_and_the_first_setting_changes_slowest() -> None:
    arguments = ["--engines", "cdni", "--epochs", "2", "--vary", "wire=fp32/int8", "in-flight=1/auto"]
    config, combinations = parse_sweep("launch.sweep", arguments)
    assert (config.runtime.wire, config.partition.in_flight) == ("fp32", "auto")
    assert [setting for setting, _ in combinations] == [
        {"wire": "fp32", "in-flight": "1"},
        {"wire": "fp32", "in-flight": "auto"},
        {"wire": "int8", "in-flight": "1"},
        {"wire": "int8", "in-flight": "auto"},
    ]
    found = [(c.runtime.wire, str(c.partition.in_flight), c.task.epochs) for _, c in combinations]
    assert found == [("fp32", "1", 2), ("fp32", "auto", 2), ("int8", "1", 2), ("int8", "auto", 2)]


def test_several_options_may_share_a_value() -> None:
    _, combinations = parse_sweep("launch.sweep", ["--vary", "in-flight,stash=1/4"])
    assert [(c.partition.in_flight, c.partition.stash) for _, c in combinations] == [(1, 1), (4, 4)]


def test_a_value_may_have_commas_and_words() -> None:
    assert parse_varied("wan=5,1000/25,100") == ("wan", ["5,1000", "25,100"])
    _, combinations = parse_sweep("launch.sweep", ["--vary", "task-args=width=8 depth=3/width=16"])
    assert [c.task.task_args for _, c in combinations] == [("width=8", "depth=3"), ("width=16",)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "no settings to vary; give some, such as --vary in-flight=1/4/16"),
        (("--vary", "in-flight"), "vary has in-flight; write NAME=VALUE/VALUE, such as in-flight=1/4/16"),
        (("--vary", "wire=fp32/"), "vary has wire=fp32/; write NAME=VALUE/VALUE"),
        (("--vary", "in-flight=2/2"), "vary has in-flight=2/2; write NAME=VALUE/VALUE"),
        (("--vary", "seed=1/2", "seed=3/4"), "vary has seed twice; write all of its values behind one"),
        (("--vary", "out=a/b"), "vary has out, which is the same for all runs of a sweep; leave it out"),
        (("--vary", "magic=1/2"), "Unrecognized options: --magic"),
        (("--vary", "wan=25/5,1000"), "wan is 25; write LATENCY_MS,MBIT"),
    ],
)
def test_a_wrong_sweep_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError) as error:
        parse_sweep("launch.sweep", arguments)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)
