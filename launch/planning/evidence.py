"""What an advice rests on: rows of a comparison here, predictions for here and there, and learning in as many
stages as there are devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dni_async.errors import UserError
from launch.config.advise import AdviseConfig
from launch.config.compare import CompareConfig
from launch.config.train import TrainConfig
from launch.engines.registry import ENGINES
from launch.job.in_process import train_in_process
from launch.planning.advice import Option
from launch.planning.predict import Planner, Prediction
from launch.planning.profile import Profile
from launch.report.advice_page import Advice
from launch.report.comparison_rows import Row
from launch.report.evaluation import metric_key
from tasks.base import Task
from workers.runtime.device import physical_cores, place

NOISE = 0.5
"""Points of accuracy, or per cent of test loss, that a short training does not tell apart."""
Learned = dict[str, Any]
"""What a training in one process has learned; empty if it could not be."""


def stages_here(config: AdviseConfig, layers: int) -> int:
    """Return the stages of the runs here: those of --stages, or one for each device that this machine has, up
    to those asked about. Raises UserError for a network that cannot be cut."""
    if layers < 2:
        raise UserError(f"a network of {layers} layer cannot be cut")
    here = torch.cuda.device_count() if config.runtime.device == "cuda" else physical_cores()
    return config.partition.stages or max(2, min(here, config.devices, layers))


def learned_in_process(config: CompareConfig, task: Task, rule: str, stages: int) -> Learned:
    """Return what the rule has learned in so many stages, in as many updates as the runs of a comparison."""
    place("cpu", config.runtime.threads, 0, 1)
    try:
        own = config.to(TrainConfig, rule=rule, stages=stages, deterministic=True, cut="", out="", quiet=True)
        return train_in_process(own, task)
    except UserError:  # the row of the comparison says it
        return {}


@dataclass(slots=True)
class Evidence:
    """Measurements and predictions of one network."""

    config: AdviseConfig
    profile: Profile
    rows: Sequence[Row]
    """Of the comparison, backprop first."""
    stages: int
    """Of the comparison."""
    load: Sequence[str] = ()
    """Lines about other programs that kept the machine busy."""
    learned: dict[str, Learned] = field(default_factory=dict)
    """By rule."""

    def decoupled(self) -> list[tuple[str, int]]:
        """Return each rule that ran here, and the number of stages that it can have there."""
        there = [(row["engine"], self._there(row["engine"])) for row in self.rows if not row.get("error")]
        return [(name, found.stages) for name, found in there if name not in ENGINES and not found.error]

    def advice(self, metric_name: str, updates: int) -> Advice:
        """Return the advice; `updates` are those of each run."""
        options = [self._option(row, metric_name) for row in self.rows]
        settings = self.profile.settings
        return Advice(
            title=f"{settings['task']}, {len(self.profile.layers)} layers, batch {self.profile.batch_size}",
            devices=self.config.devices,
            link=str(self.config.device_link),
            stages=self.stages,
            repeats=self.config.repeats,
            updates=updates,
            metric_name=metric_name,
            noise=self._noise(metric_name),
            backprop=options[0],
            options=options[1:],
            load=self.load,
        )

    def _option(self, row: Row, metric_name: str) -> Option:
        engine = row["engine"]
        here, there = self._here(engine), self._there(engine)
        failed = bool(row.get("error"))
        base = self.rows[0]
        reasons = {row.get("error") or "", here.error or "", there.error or ""} - {""}
        spread = row.get("speedup_spread")
        learned = self.learned.get(engine)
        return Option(
            engine=engine,
            devices=there.stages,
            predicted=there.speedup,
            memory_bytes=there.memory_bytes,
            measured=row.get("speedup"),
            spread=(spread[0], spread[1]) if spread else None,
            predicted_here=here.speedup,
            metric=row.get(metric_key("test", metric_name)),
            cost_here=None if failed or base.get("error") else _mean_cost(base, row, metric_name),
            cost_there=_cost(base["runs"][0], learned, metric_name)
            if learned and not base.get("error")
            else None,
            reason="; ".join(sorted(reasons)),
        )

    def _here(self, engine: str) -> Prediction:
        planner = Planner(self.profile, self.config.partition)
        return planner.predict(engine, 1 if engine == "backprop" else self.stages)

    def _there(self, engine: str) -> Prediction:
        """Return the prediction for all devices, or for as many of them as the layers can share."""
        planner = Planner(self.profile, self.config.partition, self.config.device_link.wire)
        if engine == "backprop":
            return planner.predict(engine, 1)
        devices = self.config.devices
        if engine != "ddp":
            devices = min(devices, sum(layer.parameter_bytes > 0 for layer in self.profile.layers))
        if devices < 2:
            return Prediction(engine=engine, stages=1, error="only one layer has weights")
        return planner.predict(engine, devices)

    def _noise(self, metric_name: str) -> float:
        """Return the difference in learning that repeats of backprop have, and `NOISE` at least."""
        runs = self.rows[0].get("runs", ())
        return max([NOISE, *(abs(_cost(a, b, metric_name)) for a in runs for b in runs)])


def _mean_cost(base: Row, row: Row, metric_name: str) -> float:
    """Return the mean over the repeats, each beside the run of backprop with the same seed."""
    costs = [_cost(a, b, metric_name) for a, b in zip(base["runs"], row["runs"], strict=False)]
    return sum(costs) / len(costs)


def _cost(base: Row, run: Row, metric_name: str) -> float:
    """Return how much worse a run is: in points of accuracy, or in per cent of test loss."""
    if metric_name == "accuracy":
        key = metric_key("test", metric_name)
        return 100 * (base[key] - run.get(key, run.get("test_metric", 0.0)))
    return 100 * (run["test_loss"] / base["test_loss"] - 1)
