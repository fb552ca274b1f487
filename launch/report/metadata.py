"""Run metadata: what a summary says before anything has run, and on which machine it runs."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import psutil
import torch

from launch.engines.registry import find_engine
from launch.job.context import RankContext
from launch.job.samples import known_size

UNTIL = ("accuracy", "reached", "seconds", "seconds_without_evaluations", "epochs", "steps")
"""What the summary says of --until: None where the accuracy was not reached."""


def run_metadata(task: str, rule: str | None, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the beginning of every summary; `task` is a name, `rule` None for an engine that has no rule."""
    return {
        "task": task,
        "rule": rule,
        "seed": seed,
        "versions": versions(),
        "hardware": hardware(),
        "settings": settings,
    }


def initial_summary(context: RankContext) -> dict[str, Any]:
    """Return the summary of a layered task's run at its start; what is not known yet is None or empty."""
    config, task, plan, start = context.config, context.task, context.plan, context.start
    dataset = {"train": plan.train_samples, "test": plan.test_samples}
    if context.data is not None and context.data.validation is not None:
        dataset["validation"] = known_size(context.data.validation)
    rule = config.rule if find_engine(config.engine).uses_rule else None
    return run_metadata(task.name, rule, config.task.seed, config.as_json()) | {
        "engine": config.engine_name,
        "dataset": dataset,
        "facts": dict(task.metadata),
        "module_layers": plan.module_layers,
        "notes": [],
        "precision": config.runtime.precision,
        "emulated_gflops": config.runtime.emulate_gflops,
        "samples_per_s": None,
        "train_s": None,
        "metric_name": task.metric_name,
        "epochs": [],
        "evaluations": [],
        "early_stopping": None,
        "until": None
        if config.evaluation.until is None
        else dict.fromkeys(UNTIL) | {"accuracy": config.evaluation.until},
        "losses": [],
        "final": {},
        "transports": [],
        "links": [],
        "stages": [],
        "checkpoints": {"written": 0, "failed": 0, "resumed_at": plan.start or None},
        "restarts": {"count": context.rendezvous.restart, "lost_steps": start.lost_steps},
    }


def versions() -> dict[str, str]:
    """Return the versions of the software."""
    return {
        "dni_async": importlib.metadata.version("dni-async"),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def hardware() -> dict[str, Any]:
    """Return a description of this machine."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
