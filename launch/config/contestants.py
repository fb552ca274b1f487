"""The contestants of a comparison and of a sweep: one for each row of the table.

command line ─► combinations of --vary (of a comparison: one, without settings)
                  └─► for each --variants or --engines: a contestant, with a configuration of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dni_async.errors import UserError
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.train import TrainConfig
from launch.config.variant import Setting, as_arguments


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine with all of its settings."""

    label: str
    """What tables and folders call it."""
    engine: str
    """The engine or the rule."""
    config: CompareConfig
    """The settings of the command, with those of the combination and of the variant."""
    setting: Setting
    """Of a sweep, the combination."""

    def job(self, out: Path, repeat: int = 0) -> TrainConfig:
        """Return the configuration of run number `repeat`, counted from 0."""
        return self.config.job(self.engine, out, repeat)


def parse_comparison(prog: str, arguments: Sequence[str]) -> tuple[CompareConfig, list[Contestant]]:
    """Return the configuration of the command line, and its contestants.

    Raises:
        UserError: an option or a value is not allowed, or two variants are the same.
    """
    config = parse(CompareConfig, prog, arguments)
    return config, contestants(config, prog, arguments, {})


def contestants(
    config: CompareConfig, prog: str, arguments: Sequence[str], setting: Setting
) -> list[Contestant]:
    """Return a contestant for each variant or engine of a configuration.

    Args:
        arguments: the command line of the configuration; the settings of a variant are parsed behind it.
        setting: of a sweep, the combination.

    Raises:
        UserError: a variant has an option or a value that is not allowed, or is the same as another.
    """
    found = []
    for variant in config.contenders():
        own = config
        if variant.setting:
            if shared := sorted(set(variant.setting) & {n for names in setting for n in names.split(",")}):
                raise UserError(f"variant {variant.label} sets {shared[0]}, which the sweep varies")
            try:
                own = parse(type(config), prog, [*arguments, *as_arguments(variant.setting)])
            except UserError as error:
                raise UserError(f"variant {variant.label}: {error}") from None
        found.append(Contestant(variant.label, variant.engine, own, setting))
    if config.variants:
        _check_different(found)
    return found


def _check_different(found: Sequence[Contestant]) -> None:
    """Raise UserError if two contestants would train in the same way."""
    jobs: list[tuple[TrainConfig, str]] = []
    for each in found:
        job = each.job(Path("out"))
        for other, label in jobs:
            if job == other:
                raise UserError(f"variants {label} and {each.label} are the same; leave one of them out")
        jobs.append((job, each.label))
