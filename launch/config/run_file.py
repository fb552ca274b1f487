"""config.yaml: the settings of a run, which `--config` reads again.

    dni_async: 0.1.0         version of the package that wrote it
    command: train           launch.train
    settings:                options by their names on the command line
      task: mnist-fcn
      lr: 0.001
      sg:
        kind: auto

Options beside `--config` override those in the file; a file may also have some of the settings only.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from dni_async.errors import UserError
from launch.config.checks import option
from launch.config.flat import FlatConfig
from workers.checkpoint.atomic_file import write_whole

RUN_FILE = "config.yaml"
"""Name of the file in the output folder."""
VERSION, COMMAND, SETTINGS = "dni_async", "command", "settings"
NOT_REPEATED = ("out", "config", "resume", "overwrite", "report")
"""Options that say where one run went, what it left there and how it began, not what it was."""


def write_run_file(out: Path, command: str, config: FlatConfig) -> None:
    """Write config.yaml of a run of `launch.COMMAND` to its folder. Raises UserError if that fails."""
    settings = {name: value for name, value in config.as_json().items() if name not in NOT_REPEATED}
    content = {VERSION: version(), COMMAND: command, SETTINGS: _written(settings)}
    head = f"# python -m launch.{command} --config {RUN_FILE} repeats this run; options beside it override.\n"
    text = head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    try:
        write_whole(out / RUN_FILE, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {out / RUN_FILE} ({error.strerror}); choose another --out") from error


def version() -> str:
    """Return the version of this package."""
    return importlib.metadata.version("dni-async")


@dataclass(frozen=True, slots=True)
class RunFile:
    """A config.yaml that was read."""

    path: str
    command: str | None
    settings: Mapping[str, Any]
    """Values by option; those of a group with a prefix, such as sg, in a mapping of their own."""

    @classmethod
    def read(cls, path: str) -> RunFile:
        """Return the file's content. Raises UserError if it is none, or of another version."""
        try:
            content = yaml.load(Path(path).read_text(encoding="utf-8"), _Words)
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}); give --config the {RUN_FILE} of a run"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is no YAML ({' '.join(str(error).split())}); mend it") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} has a value that is none ({error}); mend it") from None
        if not isinstance(content, dict) or not isinstance(content.get(SETTINGS), dict):
            raise UserError(f"{path} has no settings; give --config the {RUN_FILE} of a run")
        try:
            list(_flat(content[SETTINGS]))
        except RecursionError:
            raise UserError(f"{path} has a group of settings that contains itself; mend it") from None
        if unknown := sorted(set(map(str, content)) - {VERSION, COMMAND, SETTINGS}):
            raise UserError(f"{path} has an unknown key ({unknown[0]}); put options below {SETTINGS}")
        written = content.get(VERSION, version())
        if str(written) != version():
            raise UserError(
                f"{path} was written by version {written}, and this is {version()}, where options may mean "
                f"something else; look through them, and change its line {VERSION}"
            )
        return cls(path, content.get(COMMAND), content[SETTINGS])

    def arguments(self, cls: type[FlatConfig], prog: str) -> list[str]:
        """Return the settings as arguments of a command. Raises UserError if it has no such options."""
        if self.command is not None and f"launch.{self.command}" != prog:
            raise UserError(f"{self.path} is of launch.{self.command}; give it to that command")
        defaults = cls.option_defaults()
        known = set(defaults) - set(NOT_REPEATED)
        for name, _ in _flat(self.settings):
            if option(name) not in known:
                raise UserError(f"{self.path} has an unknown option ({name}); take it out, or mend its name")
        return [
            word
            for name, value in _flat(self.settings)
            if value is not None or defaults[option(name)] is None  # without a value: as without the line
            for word in _arguments(option(name), value)
        ]


def arguments_of(settings: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that give options these values; groups with a prefix, such as sg,
    are mappings."""
    return [word for name, value in _flat(settings) for word in _arguments(option(name), value)]


class _Words(yaml.SafeLoader):
    """Leaves numbers and dates as the words that they are, for the parser of the command line: YAML takes
    10:20 for 620, and 010 for 8."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, form) for tag, form in resolvers if tag.rpartition(":")[2] in ("bool", "null", "merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _written(value: Any) -> Any:
    """Return settings as YAML has them: with the names of options, and lists."""
    if isinstance(value, Mapping):
        return {option(name): _written(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _arguments(name: str, value: Any) -> Sequence[str]:
    if isinstance(value, bool):
        group, _, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{group}{'.' if group else ''}no-{last}"]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def option_arguments(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the arguments of a command for each setting that has a value, by the option's name."""
    return {
        name: list(_arguments(name, value))
        for name, value in _flat(_written(settings))
        if value is not None and value != ""
    }
