"""A variant: an engine with settings of its own, such as `cdni target-every=4 lr=2e-3`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dni_async.errors import UserError
from dni_async.rules.registry import rule_label
from launch.config.checks import option
from launch.engines.registry import engine_label

Setting = dict[str, str]
"""Values of options, as on the command line: several words with spaces between them."""

FIXED = (
    "config",
    "engines",
    "help",
    "out",
    "quiet",
    "repeats",
    "variants",
    "vary",
    "vary-seed",
)
"""Options that all runs of a comparison or a sweep share."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One contestant of a comparison as it was given."""

    engine: str
    setting: Setting

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Return the variant that `ENGINE NAME=VALUE ...` describes; quote a value of several words.

        Raises:
            UserError: the text has another form, or sets an option that all variants share.
        """
        try:
            engine, *pairs = shlex.split(text)
        except ValueError:  # no words, or a quotation mark is missing
            raise _wrong(text) from None
        if "=" in engine:
            raise _wrong(text)
        setting: Setting = {}
        for pair in pairs:
            name, equals, value = pair.partition("=")
            name = option(name).removeprefix("--")
            if not name or not equals or name in setting:
                raise _wrong(text)
            if name in FIXED or name in ("task", "engine", "rule"):
                raise UserError(f"variant {text} sets {name}, which variants cannot; leave it out")
            setting[name] = value
        return cls(engine, setting)

    @property
    def label(self) -> str:
        """What tables and folders call it."""
        return " ".join([contestant_label(self.engine), *(f"{k}={v}" for k, v in self.setting.items())])


def contestant_label(name: str) -> str:
    """Return what tables and folders call an engine or a rule, which may be a dotted path."""
    return engine_label(rule_label(name))


def as_arguments(setting: Setting) -> Iterator[str]:
    """Yield the words of a command line that give options these values; `a,b` are two options."""
    for names, value in setting.items():
        for name in names.split(","):
            yield from (f"--{name}", *value.split())


def check_labels(labels: Sequence[str]) -> None:
    """Raise UserError if two contestants would have the same row and folder."""
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"engine {label} is given twice; name it once")


def _wrong(text: str) -> UserError:
    return UserError(
        f"variant is {text or 'empty'}; write ENGINE NAME=VALUE ..., such as 'cdni target-every=4 lr=2e-3'"
    )
