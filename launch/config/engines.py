"""Lists of engines and rules to set side by side."""

from __future__ import annotations

from dni_async.errors import UserError
from dni_async.plugins import is_path
from dni_async.rules.registry import find_rule, rule_label
from launch.config.checks import one_of
from launch.engines.registry import engine_label, find_engine, is_engine_path


def contestant_label(name: str) -> str:
    """What tables and folders call an engine or a rule, which may be a dotted path."""
    return engine_label(rule_label(name))


def check_engines(engines: tuple[str, ...], known: tuple[str, ...], paths: bool = False) -> None:
    """Raises UserError unless there are some, each of them known and named once.

    paths: whether a rule or an engine may also be given as a dotted path.
    """
    if not engines:
        raise UserError("no engines given; name some, such as --engines backprop cdni")
    labels = [contestant_label(engine) for engine in engines]
    for engine, label in zip(engines, labels, strict=True):
        if paths and is_path(engine):
            find_rule(engine)
        elif paths and is_engine_path(engine):
            find_engine(engine)
        else:
            one_of("engine", engine, known)
        if labels.count(label) > 1:
            raise UserError(f"engine {label} is given twice; name it once")
