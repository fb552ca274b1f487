"""The settings of an advice."""

from __future__ import annotations

from dataclasses import dataclass

from dni_async.errors import UserError
from launch.config.checks import at_least
from launch.config.compare import CompareConfig, check_engines
from launch.config.partition import MOST_STAGES
from launch.planning.link_presets import DeviceLink
from launch.planning.predict import ENGINES as PLANNED


@dataclass(kw_only=True, slots=True)
class AdviseConfig(CompareConfig):
    """Which engine would pay on the devices you name: runs each of them shortly on this machine, predicts the
    speed there, and says how sure that is."""

    engines: tuple[str, ...] = PLANNED
    """Engines to choose from; backprop, with which they are compared, always runs."""
    devices: int = 8
    """Devices that training would have, each like one of this machine."""
    link: str = "pcie"
    """What joins them: nvlink, pcie, ethernet, or wan:LATENCY,RATE such as wan:50ms,100mbit (one way)."""
    updates: int = 100
    """Updates of each run, in place of --epochs; 0: as --epochs says."""
    repeats: int = 2
    """Runs of each engine, in turn (A B A B)."""
    vary_seed: bool = True
    """Give each repeat the next seed, from `seed` on, instead of the same."""

    def __post_init__(self) -> None:
        if self.variants:
            raise UserError("variants are for launch.compare; advice is on --engines")
        if self.wan:
            raise UserError(f"wan is {self.wan}; an advice takes --link wan:LATENCY,RATE instead")
        at_least(2, devices=self.devices)
        at_least(0, updates=self.updates)
        if self.devices > MOST_STAGES:
            raise UserError(f"devices is {self.devices}; it must be at most {MOST_STAGES}")
        if self.device_link.between_hosts and self.runtime.transport == "auto":
            self.runtime.transport = "tcp"
        stages = self.partition.stages
        CompareConfig.__post_init__(self)
        self.partition.stages = stages
        if stages == 1:
            raise UserError("stages is 1; an advice runs at least 2 stages on this machine")
        check_engines(self.engines, PLANNED)
        if "," in self.runtime.transport:
            raise UserError(f"transport is {self.runtime.transport}; an advice takes one for all links")

    @property
    def device_link(self) -> DeviceLink:
        """What joins the devices."""
        return DeviceLink.parse(self.link)

    def comparison(self, stages: int, steps_per_epoch: int) -> CompareConfig:
        """Return the settings of the short runs here.

        Args:
            steps_per_epoch: batches of the training set.
        """
        engines = ("backprop", *(engine for engine in self.engines if engine != "backprop"))
        short: dict[str, int] = {}
        if self.updates:
            steps = min(self.updates, steps_per_epoch)
            short = {"epochs": -(-self.updates // steps)}
            short |= {"steps_per_epoch": steps} if steps < steps_per_epoch else {}
        chosen = {"variants": (), "wan": "", "engines": engines, "stages": stages, "quiet": True}
        return self.to(CompareConfig, **chosen, **short)
