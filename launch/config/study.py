"""The settings of a study: those of a training, the rules to compare, and the setting that is varied."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dni_async.errors import UserError
from dni_async.rules.registry import find_rule, rule_label
from launch.config.checks import at_least
from launch.config.command_line import parse
from launch.config.sweep import parse_varied
from launch.config.train import JobConfig, TrainConfig

FIXED = ("help", "out", "quiet", "repeats", "rules", "seed", "task", "task-args", "vary")
"""Options that a study has once."""
BACKPROP = "backprop"


@dataclass(kw_only=True, slots=True)
class StudyConfig(JobConfig):
    """Train by several rules with several values of one setting, all stages in this process and in an order
    that does not depend on the machine's speed. A study that was interrupted goes on when it is started again
    with the same --out."""

    rules: tuple[str, ...] = ("backprop", "cdni", "local", "delayed", "frozen")
    """Rules to compare, each with options of its own if need be, such as 'delayed --delay-rate 0', and with a
    name in front where it should have another, such as 'plain: delayed --delay-rate 0'; backprop is the whole
    network in one stage."""
    vary: str = "stages=2/4"
    """The setting and its values, such as stages=2/4/8/16 or in-flight=1/4/16; in-flight,stash=1/4/16 gives
    both the same value."""
    repeats: int = 3
    """Seeds, from `seed` on."""

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        at_least(1, repeats=self.repeats)
        names, _ = parse_varied(self.vary)
        for name in names.split(","):
            if name in FIXED:
                raise UserError(f"vary has {name}, which is the same for all runs of a study; leave it out")
        if self.logging.log or self.logging.profile:
            raise UserError("a study trains in one process and logs nothing; leave out --log and --profile")
        if not self.rules:
            raise UserError("no rules given; name some, such as --rules backprop cdni")
        labels = [Contestant.parse(text).label for text in self.rules]
        for label in labels:
            if labels.count(label) > 1:
                raise UserError(f"rule {label} is given twice; name one of them, such as 'other: {label}'")
        if self.task.seed + self.repeats > 2**32:
            raise UserError(
                f"seed is {self.task.seed}; the last of {self.repeats} must be at most {2**32 - 1}"
            )


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of the rules that a study compares."""

    label: str
    rule: str
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Return the contestant of `LABEL: RULE OPTIONS`, in which label and options may be missing. Raises
        UserError."""
        label, colon, rest = text.partition(": ") if ": " in text else ("", "", text)
        try:
            words = shlex.split(rest)
        except ValueError as error:
            raise UserError(f"rules has {text} ({error}); write RULE or 'LABEL: RULE OPTIONS'") from None
        if not words or (colon and not label.strip()):
            raise UserError(f"rules has '{text}'; write RULE or 'LABEL: RULE OPTIONS'")
        rule, *options = words
        if rule != BACKPROP:
            find_rule(rule)
        return cls(label.strip() or rule_label(rule), rule, tuple(options))


@dataclass(frozen=True, slots=True, eq=False)
class StudyJob:
    """One run of a study."""

    contestant: Contestant
    value: str
    """Of the varied setting."""
    config: TrainConfig


def parse_study(prog: str, arguments: Sequence[str]) -> tuple[StudyConfig, list[StudyJob]]:
    """Return the configuration of the command line, and its runs: all values and rules with the first seed,
    then with the next.

    Backprop runs once for each seed where the number of stages is varied, and stands at one stage there.

    Raises:
        UserError: an option or a value is not allowed.
    """
    config = parse(StudyConfig, prog, arguments)
    names, values = parse_varied(config.vary)
    by_stages = "stages" in names.split(",")
    jobs: list[StudyJob] = []
    for text in config.rules:
        contestant = Contestant.parse(text)
        whole = contestant.rule == BACKPROP
        for value in ["1"] if whole and by_stages else values[:1] if whole else values:
            varied = [word for name in names.split(",") for word in (f"--{name}", value)]
            own = parse(StudyConfig, prog, [*arguments, *contestant.options, *varied])
            if by_stages and not own.partition.stages:
                raise UserError(f"vary has {config.vary}; the number of stages must be at least 1")
            stages = 1 if whole else own.partition.stages or 2
            rule = "frozen" if whole else contestant.rule
            job = own.to(TrainConfig, rule=rule, stages=stages, deterministic=True, out="", quiet=True)
            jobs.append(StudyJob(contestant, value, job))
    return config, [
        StudyJob(job.contestant, job.value, job.config.changed(seed=config.task.seed + repeat))
        for repeat in range(config.repeats)
        for job in jobs
    ]
