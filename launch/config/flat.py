"""Configurations made of groups, whose settings have one flat namespace: that of the command line.

    class TrainConfig(FlatConfig)          --task mnist-fcn --epochs 5 --lr 0.1 --device cuda
        task: TaskConfig                   TrainConfig.of(task="mnist-fcn", epochs=5, lr=0.1, device="cuda")
        optimizer: OptimizerConfig         config.task.epochs, config.optimizer.lr, config.runtime.device
        runtime: RuntimeConfig             config.flat() == {"task": "mnist-fcn", "epochs": 5, "lr": 0.1, ...}

A setting is called as in its group; `name` of a group is called as the group, so `--task` is `task.name`.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from typing import Any, TypeVar

from typing_extensions import Self

from launch.config.value_types import checked_settings

Other = TypeVar("Other", bound="FlatConfig")


class Group:
    """A group of settings, a dataclass; not to be taken for a setting that is a dataclass."""

    __slots__ = ()

    def flat(self, group: str) -> dict[str, Any]:
        """Return the settings by their flat names."""
        return {flat_name(group, field): getattr(self, field) for field in _names(self)}


class FlatConfig:
    """A dataclass of groups and settings."""

    __slots__ = ()

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Return a configuration from flat keywords; what is not named has its default.

        Raises:
            TypeError: there is no such setting.
            UserError: a value is not allowed, or of another type than the setting.
        """
        values = {}
        for name, default in _defaults(cls).items():
            if isinstance(default, Group):
                own = {field: flat_name(name, field) for field in _names(default)}
                given = {field: settings.pop(flat) for field, flat in own.items() if flat in settings}
                given = checked_settings(type(default), given, own)
                values[name] = replace(default, **given)  # type: ignore[type-var]
            elif name in settings:
                values |= checked_settings(cls, {name: settings.pop(name)}, {name: name})
        if settings:
            raise TypeError(f"{cls.__name__} has no setting {', '.join(settings)}")
        return cls(**values)

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the flat names of all settings."""
        names = []
        for name, default in _defaults(cls).items():
            names += list(default.flat(name)) if isinstance(default, Group) else [name]
        return names

    @classmethod
    def option_names(cls) -> list[str]:
        """Return what the settings are called on the command line, such as batch-size and sg.kind."""
        return list(cls.option_defaults())

    @classmethod
    def option_defaults(cls) -> dict[str, Any]:
        """Return the default of each option, by what it is called on the command line."""
        options: dict[str, Any] = {}
        for name, default in _defaults(cls).items():
            if isinstance(default, Group):
                options |= default.flat(name)
            elif is_dataclass(default):
                options |= {f"{name}.{field}": getattr(default, field) for field in _names(default)}
            else:
                options[name] = default
        return {name.replace("_", "-"): default for name, default in options.items()}

    def flat(self) -> dict[str, Any]:
        """Return all settings by their flat names."""
        settings: dict[str, Any] = {}
        for name in _names(self):
            value = getattr(self, name)
            settings |= value.flat(name) if isinstance(value, Group) else {name: value}
        return settings

    def as_json(self) -> dict[str, Any]:
        """Return all settings by their flat names, as files hold them."""
        return {
            name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            for name, value in self.flat().items()
        }

    def changed(self, **settings: Any) -> Self:
        """Return a copy with other values of some settings, checked again."""
        return self.to(type(self), **settings)

    def to(self, cls: type[Other], **settings: Any) -> Other:
        """Return another kind of configuration with the settings that both have, and those given."""
        names = set(cls.setting_names())
        shared = {name: value for name, value in self.flat().items() if name in names}
        return cls.of(**shared | settings)


def flat_name(group: str, field: str) -> str:
    """Return what a group's setting is called on the command line, in Python's dialect."""
    return group if field == "name" else field


def _names(config: Any) -> list[str]:
    return [field.name for field in fields(config)]


def _defaults(cls: Any) -> dict[str, Any]:
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(cls)
    }
