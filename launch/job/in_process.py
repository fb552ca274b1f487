"""A job with all of its stages in this process, in an order that depends on nothing but its settings.

How fast stages are has no influence, so a job learns the same on a busy machine: the way to measure what a
number of stages, or batches in flight, does to learning.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from dni_async.errors import UserError
from dni_async.messages import EVALUATIONS
from dni_async.stage.simulation import Simulation, upstream_first
from launch.config.train import TrainConfig
from launch.engines.registry import find_engine
from launch.job.data import read
from launch.job.message_stream import stream
from launch.job.partition_plan import make_plan
from launch.job.stage_factory import build_stage
from tasks.base import Task

Run = dict[str, Any]
"""What a job has learned, JSON-able."""


def train_in_process(config: TrainConfig, task: Task) -> Run:
    """Train by `--rule` in `--stages`, one of which is sequential backprop; returns what was learned.

    With `--in-flight auto` all stages are equally fast; with a number, every stage runs ahead of the next one
    as far as so many batches between them allow.
    """
    if not find_engine(config.engine).uses_rule:
        raise UserError(f"engine {config.engine} does not train in one process; use --rule")
    device = torch.device("cpu")
    data = read(config.task, task, (0, 1), config.evaluation.patience, config.data)
    plan = make_plan(config, task, data, max(1, config.partition.stages), device)
    stages = [build_stage(config, task, plan, i, device)[0] for i in range(len(plan.bounds))]
    messages = stream(
        data,
        config.task.epochs,
        device,
        lambda: 0.0,
        evaluations=config.evaluation.evaluations,
        inputs=plan.boundary(0),
        targets=plan.target_boundary(),
    )
    simulation = Simulation(stages, config.partition.capacity)
    if config.partition.in_flight == "auto":
        simulation.run_in_step(messages)
    else:
        simulation.run(messages, upstream_first)
    results = [m.body["result"] for m in simulation.markers if m.kind in EVALUATIONS]
    stats = [stage.stats() for stage in stages]
    return {
        "rule": config.rule if len(stages) > 1 else "backprop",
        "stages": len(stages),
        "seed": config.task.seed,
        "test_loss": results[-1]["test_loss"],
        "test_metric": task.reported(results[-1]["test_accuracy"]),
        "curve": [task.reported(result["test_accuracy"]) for result in results],
        "staleness": [each["staleness_mean"] for each in stats if "staleness_mean" in each],
        "cosine": [each["sg_cosine"] for each in stats if "sg_cosine" in each],
        "updates": statistics.median(each["version"] for each in stats),
    }
