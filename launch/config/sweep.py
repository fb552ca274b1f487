"""The settings of a sweep: those of a comparison, and which of them it varies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.contestants import Contestant, contestants
from launch.config.variant import FIXED, as_arguments


@dataclass(kw_only=True, slots=True)
class SweepConfig(CompareConfig):
    """Run engines with every combination of some settings, and set them side by side. A sweep that was
    interrupted goes on when it is started again with the same --out."""

    vary: tuple[str, ...] = ()
    """Options and their values, such as in-flight=1/4/16 wire=fp32/int8 or wan=5,1000/25,1000; each runs with
    each value of the others. Options that have the same value share one: in-flight,stash=1/4/16."""

    def __post_init__(self) -> None:
        CompareConfig.__post_init__(self)
        if not self.vary:
            raise UserError("no settings to vary; give some, such as --vary in-flight=1/4/16")
        names = [name for text in self.vary for name in parse_varied(text)[0].split(",")]
        for name in names:
            if name in FIXED:
                raise UserError(f"vary has {name}, which is the same for all runs of a sweep; leave it out")
            if names.count(name) > 1:
                raise UserError(f"vary has {name} twice; write all of its values behind one")


def parse_varied(text: str) -> tuple[str, list[str]]:
    """Return the option, or several with commas, and the values of `NAME=VALUE/VALUE`. Raises UserError."""
    name, _, values = text.partition("=")
    found = values.split("/")
    if not name or not all(found) or len(set(found)) < len(found):
        raise UserError(f"vary has {text}; write NAME=VALUE/VALUE, such as in-flight=1/4/16")
    return name.replace("_", "-"), found


def parse_sweep(prog: str, arguments: Sequence[str]) -> tuple[SweepConfig, list[Contestant]]:
    """Return the configuration of the command line, and the contestants with each combination of the varied
    settings, the first option changing slowest.

    Raises:
        UserError: an option or a value is not allowed.
    """
    config = parse(SweepConfig, prog, arguments)
    varied = dict(map(parse_varied, config.vary))
    found = []
    for values in itertools.product(*varied.values()):
        setting = dict(zip(varied, values, strict=True))
        combined = [*arguments, *as_arguments(setting)]
        found += contestants(parse(SweepConfig, prog, combined), prog, combined, setting)
    return config, found
