"""Which settings a sweep varies, and what a user may get wrong."""

from __future__ import annotations

import pytest

from dni_async.errors import UserError
from launch.config.sweep import parse_sweep, parse_varied


def test_every_combination_is_a_configuration_and_the_first_setting_changes_slowest() -> None:
    arguments = ["--engines", "cdni", "--epochs", "2", "--vary", "wire=fp32/int8", "in-flight=1/auto"]
    config, contestants = parse_sweep("launch.sweep", arguments)
    assert (config.runtime.wire, config.partition.in_flight) == ("fp32", "auto")
    assert [each.setting for each in contestants] == [
        {"wire": "fp32", "in-flight": "1"},
        {"wire": "fp32", "in-flight": "auto"},
        {"wire": "int8", "in-flight": "1"},
        {"wire": "int8", "in-flight": "auto"},
    ]
    configs = [each.config for each in contestants]
    found = [(c.runtime.wire, str(c.partition.in_flight), c.task.epochs) for c in configs]
    assert found == [("fp32", "1", 2), ("fp32", "auto", 2), ("int8", "1", 2), ("int8", "auto", 2)]


def test_every_variant_runs_with_every_combination() -> None:
    arguments = ["--variants", "cdni", "local lr=0.5", "--vary", "in-flight=1/4"]
    _, contestants = parse_sweep("launch.sweep", arguments)
    found = [(e.label, e.config.optimizer.lr, e.config.partition.in_flight) for e in contestants]
    assert found == [(*each, n) for n in (1, 4) for each in (("cdni", 1e-3), ("local lr=0.5", 0.5))]


def test_several_options_may_share_a_value() -> None:
    _, contestants = parse_sweep("launch.sweep", ["--engines", "cdni", "--vary", "in-flight,stash=1/4"])
    found = [(each.config.partition.in_flight, each.config.partition.stash) for each in contestants]
    assert found == [(1, 1), (4, 4)]


def test_a_value_may_have_commas_and_words() -> None:
    assert parse_varied("wan=5,1000/25,100") == ("wan", ["5,1000", "25,100"])
    arguments = ["--engines", "cdni", "--vary", "task-args=width=8 depth=3/width=16"]
    _, contestants = parse_sweep("launch.sweep", arguments)
    assert [each.config.task.task_args for each in contestants] == [("width=8", "depth=3"), ("width=16",)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "no settings to vary; give some, such as --vary in-flight=1/4/16"),
        (("--vary", "in-flight"), "vary has in-flight; write NAME=VALUE/VALUE, such as in-flight=1/4/16"),
        (("--vary", "wire=fp32/"), "vary has wire=fp32/; write NAME=VALUE/VALUE"),
        (("--vary", "in-flight=2/2"), "vary has in-flight=2/2; write NAME=VALUE/VALUE"),
        (("--vary", "seed=1/2", "seed=3/4"), "vary has seed twice; write all of its values behind one"),
        (("--vary", "out=a/b"), "vary has out, which is the same for all runs of a sweep; leave it out"),
        (("--vary", "variants=cdni/dni"), "vary has variants, which is the same for all runs of a sweep"),
        (
            ("--variants", "cdni wire=int8", "--vary", "wire=fp32/int8"),
            "variant cdni wire=int8 sets wire, which the sweep varies",
        ),
        (("--vary", "magic=1/2"), "Unrecognized options: --magic"),
        (("--vary", "wan=25/5,1000"), "wan is 25; write LATENCY_MS,MBIT"),
    ],
)
def test_a_wrong_sweep_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError) as error:
        parse_sweep("launch.sweep", arguments)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)
