"""What a network costs on this machine, measured once; `launch.plan` predicts everything from it.

    layers        seconds of forward, backward, update, of a whole batch and of a part of it; bytes
    interfaces    seconds of an SG network or auxiliary head after each layer, by rule
    links         seconds of a message, by bytes; of one step of an all-reduce
    load          seconds to read a batch

With `--emulate-gflops` compute lasts as long as on the emulated device, messages as long as here.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from dni_async.errors import UserError
from dni_async.partition.costs import InterfaceCost, LayerCost
from launch.config.flat import FlatConfig
from launch.report.files import jsonable, write_json
from tasks.data_files import read_data
from workers.transport.link_cost import Line, LinkCost

FORMAT = "dni_async profile 1"
DEPTHS = (2, 3)
"""Numbers of stages for which SG networks differ: from three on they replay."""
SETTINGS = (
    "task", "task_args", "batch_size", "optimizer", "optimizer_args", "ema", "sg", "local", "device",
    "threads", "transport", "emulate_gflops",
)  # fmt: skip
"""What the numbers of a profile depend on."""


@dataclass(slots=True)
class LayerProfile:
    """One layer; seconds and bytes of a whole batch unless said otherwise."""

    name: str
    batch: LayerCost
    part: LayerCost
    """Of the profile's `part_size` samples."""
    parameter_bytes: int
    optimizer_bytes: int
    """Of the optimizer's state, and of the weights' average (--ema)."""
    saved_bytes: int
    """What autograd keeps from forward to backward, beside the layer's input where that is kept already."""
    output_bytes: int
    extra_bytes: int = 0
    """Of the tensors that travel beside the output, such as masks."""


@dataclass(slots=True)
class InterfaceProfile:
    """The SG network or auxiliary head at a layer's output."""

    cost: InterfaceCost
    state_bytes: int
    """Its parameters, their gradients and its optimizer."""
    replay_bytes: int
    """What it keeps for replay."""


NO_RULE = InterfaceProfile(InterfaceCost(), 0, 0)
"""Of an interface without a network: whole numbers have no gradient, and some rules need none."""


@dataclass(slots=True)
class Profile:
    """All measurements, JSON-able."""

    settings: dict[str, Any]
    hardware: dict[str, Any]
    batch_size: int
    part_size: int
    load: float
    label_bytes: int
    condition_bytes: int
    fixed: LayerCost
    """Cost of a layer with almost no work: paid once per stage, and included in every layer's cost."""
    layers: list[LayerProfile]
    interfaces: dict[str, list[InterfaceProfile]]
    """After each layer but the last, by rule and number of stages: "cdni 2", "cdni 3" (three and more)."""
    refused: dict[str, str]
    """Rules that do not fit this network, and why."""
    link: LinkCost
    """Between stages, over the transport in use."""
    gloo: LinkCost
    """The same over torch.distributed, which torch's own engines use."""
    all_reduce: Line
    repeated: int = 0
    """Layers of the real network when this one has its middle layers repeated, else 0."""
    format: str = FORMAT

    @property
    def emulated(self) -> bool:
        """Whether the costs of compute are those of an emulated device."""
        return self.settings.get("emulate_gflops") is not None

    def interfaces_of(self, rule: str, stages: int) -> list[InterfaceProfile]:
        """Return the networks of a rule in so many stages; they cost nothing for rules without a network."""
        key = f"{rule} {min(stages, DEPTHS[-1])}"
        return self.interfaces.get(key) or [NO_RULE] * (len(self.layers) - 1)

    def repeat(self, layers: int) -> Profile:
        """Return the network with its middle layers, all but first and last, repeated up to so many."""
        middle = len(self.layers) - 2
        if middle < 1:
            raise UserError(f"a network of {len(self.layers)} layers has none in the middle to repeat")
        times = max(1, math.ceil((layers - 2) / middle))

        def tiled(values: list[Any], after: int) -> list[Any]:
            return [values[0], *values[1 : 1 + middle] * times, *values[len(values) - after :]]

        grown = copy.copy(self)
        grown.repeated = len(self.layers)
        grown.layers = tiled(self.layers, 1)
        grown.interfaces = {key: tiled(values, 0) for key, values in self.interfaces.items()}
        return grown

    def save(self, path: Path) -> None:
        """Write the profile to a JSON file, for --profile."""
        write_json(path, asdict(self))


def load_profile(path: Path, config: FlatConfig) -> Profile:
    """Return a saved profile. Raises UserError when it is damaged, or was measured with other settings."""
    try:
        content = json.loads(read_data(path))
    except UserError as error:
        raise UserError(f"{error}; measure a profile without --profile") from None
    except ValueError:  # no JSON, or not even text
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is no profile of launch.plan; measure one without --profile") from None
    try:
        found: Profile = _from_json(Profile, content)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"profile {path} is damaged ({error}); measure one without --profile") from None
    for key, wanted in settings_of(config).items():
        if found.settings.get(key) != wanted:
            raise UserError(
                f"profile {path} was measured with {key} {found.settings.get(key)}, not {wanted}; "
                "measure one without --profile"
            )
    return found


def settings_of(config: FlatConfig) -> dict[str, Any]:
    """Return the settings that a profile depends on, as JSON has them."""
    known = config.as_json()
    return {key: jsonable(known[key]) for key in SETTINGS}


def _from_json(kind: Any, value: Any) -> Any:
    """Return the dataclass, or list or dictionary of dataclasses, that `asdict` made `value` from."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _from_json(hints[name], part) for name, part in value.items()})
    if get_origin(kind) is list:
        return [_from_json(get_args(kind)[0], part) for part in value]
    if get_origin(kind) is dict:
        return {key: _from_json(get_args(kind)[1], part) for key, part in value.items()}
    return value
