"""The runs of a study, and what a user may get wrong."""

from __future__ import annotations

import pytest

from dni_async.errors import UserError
from launch.config.study import Contestant, parse_study


def test_all_values_and_rules_run_with_the_first_seed_then_with_the_next() -> None:
    rules = ("backprop", "cdni", "plain: delayed --delay-rate 0", "delayed")
    config, jobs = parse_study(
        "launch.study", ["--rules", *rules, "--vary", "stages=2/4", "--repeats", "2", "--seed", "3"]
    )
    found = [
        (job.contestant.label, job.value, job.config.rule, job.config.partition.stages, job.config.task.seed)
        for job in jobs
    ]
    with_a_seed = [
        ("backprop", "1", "frozen", 1),
        ("cdni", "2", "cdni", 2),
        ("cdni", "4", "cdni", 4),
        ("plain", "2", "delayed", 2),
        ("plain", "4", "delayed", 4),
        ("delayed", "2", "delayed", 2),
        ("delayed", "4", "delayed", 4),
    ]
    assert found == [(*run, seed) for seed in (3, 4) for run in with_a_seed]
    assert [job.config.delay.delay_rate for job in jobs[:7]] == [0.75, 0.75, 0.75, 0, 0, 0.75, 0.75]
    assert config.repeats == 2 and all(job.config.runtime.deterministic for job in jobs)


def test_backprop_has_one_line_whatever_is_varied() -> None:
    _, jobs = parse_study(
        "launch.study",
        [
            "--rules",
            "backprop",
            "delayed",
            "--stages",
            "4",
            "--vary",
            "in-flight,stash=1/8",
            "--repeats",
            "1",
        ],
    )
    found = [(job.contestant.label, job.config.partition.stages, job.config.partition.stash) for job in jobs]
    assert found == [("backprop", 1, 1), ("delayed", 4, 1), ("delayed", 4, 8)]


def test_a_contestant_has_a_label_a_rule_and_options() -> None:
    found = Contestant.parse("no rate: delayed --delay-rate 0")
    assert found == Contestant("no rate", "delayed", ("--delay-rate", "0"))
    assert Contestant.parse("local") == Contestant("local", "local", ())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--rules",), "no rules given; name some, such as --rules backprop cdni"),
        (("--rules", "nothing"), "unknown rule (nothing)"),
        (("--rules", "cdni", "cdni"), "rule cdni is given twice; name one of them, such as 'other: cdni'"),
        (("--rules", "x: "), "rules has 'x: '; write RULE or 'LABEL: RULE OPTIONS'"),
        (("--rules", "cdni 'x"), "rules has cdni 'x (No closing quotation)"),
        (("--rules", "cdni --nothing 3"), "--nothing"),
        (("--vary", "stages"), "vary has stages; write NAME=VALUE/VALUE"),
        (("--vary", "seed=1/2"), "vary has seed, which is the same for all runs of a study; leave it out"),
        (("--vary", "stages=x/2"), "x"),
        (("--vary", "stages=0/2"), "vary has stages=0/2; the number of stages must be at least 1"),
        (("--repeats", "0"), "repeats is 0; it must be at least 1"),
        (("--seed", "4294967295"), "the last of 3 must be at most 4294967295"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError) as error:
        parse_study("launch.study", arguments)
    assert line in str(error.value) and "\n" not in str(error.value)
