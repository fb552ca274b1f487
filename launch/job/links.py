"""What the ranks agree on about the links between the stages: transports, speeds, messages in flight.

hosts ─► transports ─► speeds of the links between hosts ─► messages in flight (--in-flight auto)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch

from launch.job.context import RankContext
from workers.transport.compression import compress
from workers.transport.connect import agree_on_transports
from workers.transport.in_flight import agree_on_in_flight
from workers.transport.link_speed import LinkSpeed, agree_on_link_speeds
from workers.transport.registry import find_transport

Speeds = list[LinkSpeed | None]
"""Of each link; None where it was not measured, as within a host."""


def agree_on_links(context: RankContext) -> tuple[list[str], Speeds]:
    """Return transport and speed of each link, and set the context's messages in flight if they are to be
    found. Every rank has to call it.

    Supervised stages measure nothing: a stage that is started again would find its neighbours busy.
    """
    config, rendezvous = context.config, context.rendezvous
    timeout = config.runtime.timeout
    transports, hosts = agree_on_transports(
        rendezvous, config.runtime.transport, timeout, config.runtime.encrypt
    )
    supervised = config.recovery.supervise
    far = [
        name in ("tcp", "tls") and a != b for name, (a, b) in zip(transports, pairwise(hosts), strict=True)
    ]
    pairs = [(i, i + 1) for i, each in enumerate(far) if each and not supervised]
    measured = agree_on_link_speeds(rendezvous, pairs, timeout) if pairs else {}
    speeds = [measured.get((i, i + 1)) for i in range(len(transports))]
    given = config.partition.in_flight != "auto" or config.runtime.deterministic or supervised
    if not (given or all_near(transports)):
        step_s = max([*context.plan.costs, *_seconds_on_the_wire(context, speeds)], default=0.0)
        in_flight = agree_on_in_flight(rendezvous, step_s, timeout)
        context.config = config.changed(in_flight=in_flight)
    return transports, speeds


def all_near(transports: Sequence[str]) -> bool:
    """Whether all links are within a host."""
    return all(find_transport(name).same_host_only for name in transports)


def _seconds_on_the_wire(context: RankContext, speeds: Speeds) -> list[float]:
    """Return how long each measured link is busy with the activations of a batch: no step is shorter."""
    plan, config = context.plan, context.config
    seconds = []
    for (_, end), speed in zip(plan.bounds, speeds, strict=False):
        if speed and speed.downstream_bytes_per_s:
            sample = torch.zeros(1, *plan.shapes[end - 1], dtype=getattr(torch, plan.dtypes[end - 1]))
            size = config.task.batch_size * compress(sample, config.runtime.wire).nbytes
            seconds.append(size / speed.downstream_bytes_per_s)
    return seconds


def describe_links(transports: Sequence[str], speeds: Speeds) -> list[dict[str, Any]]:
    """Return what the summary says of each link before the training."""
    unknown = dict.fromkeys(LinkSpeed.__dataclass_fields__)
    return [
        {"stages": [i, i + 1], "transport": name} | (asdict(speed) if speed else unknown)
        for i, (name, speed) in enumerate(zip(transports, speeds, strict=True))
    ]
