"""The parts of a schedule that are made in the first call, when the shapes are known."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from dni_async.messages import Message
from dni_async.optim import Updater
from dni_async.rules.registry import capabilities_of
from launch.schedule.interfaces import Spread, agree_on_interfaces
from launch.schedule.labels import LabelledStage, Labels, open_labels
from launch.schedule.rule import Loss, classes_of, rule_of
from launch.schedule.settings import ScheduleSettings
from workers.coordination.rendezvous import Rendezvous, host_identity
from workers.runtime.channels import StageChannels
from workers.runtime.endpoints import Sink, Source
from workers.runtime.probe import Probe, Throughput
from workers.runtime.stepped_loop import SteppedLoop
from workers.transport.connect import Links, open_links
from workers.transport.registry import choose_transports

WARMUP = 10
"""Steps that the times of a report leave out."""


@dataclass(slots=True)
class Running:
    """A stage between its channels."""

    stage: LabelledStage
    loop: SteppedLoop
    labels: Labels
    batches: deque[Message]
    """What the first stage takes next."""


def start(
    module: Spread,
    device: torch.device,
    rendezvous: Rendezvous,
    loss_fn: Loss,
    updater: Updater,
    settings: ScheduleSettings,
    inputs: Any,
    target: Any,
    stack: ExitStack,
) -> Running:
    """Build the stage of this rank and connect it to its neighbours; every rank has to call it.

    Args:
        inputs: the first batch, a tensor (B, ...) or a tuple of tensors; on rank 0.
        target: its labels, a tree of tensors (B, ...), on the ranks that have them; else None.
        stack: closes the connections.
    """
    index, stages, timeout = rendezvous.rank, rendezvous.world, settings.timeout
    interfaces = agree_on_interfaces(rendezvous, module, inputs, target, device, timeout)
    hosts = rendezvous.all_gather("host", host_identity(), timeout)
    transports = choose_transports(settings.transport, hosts)
    links = stack.enter_context(open_links(rendezvous, transports, settings.in_flight, timeout, device))
    capabilities = capabilities_of(settings.rule)
    needs_labels = capabilities.uses_labels or settings.ignore_index is not None
    labels = open_labels(
        rendezvous, hosts, interfaces, needs_labels, settings.in_flight, timeout, device, stack
    )
    stage = LabelledStage(
        index,
        module,
        rule_of(settings, interfaces, loss_fn, module.module, index, stages, device),
        updater,
        send_targets=index > 0 and capabilities.needs_targets,
        target_every=settings.target_every if capabilities.sparse_targets else 1,
        skip_nonfinite=settings.on_nonfinite == "skip",
        takes=interfaces.takes,
        returns=interfaces.returns,
        targets=interfaces.targets,
    )
    stage.labels, stage.needs_labels = labels, needs_labels or stage.is_last
    stage.classes, stage.ignore_index = classes_of(settings, interfaces), settings.ignore_index
    batches: deque[Message] = deque()
    loop = SteppedLoop(
        stage,
        _channels(links, batches),
        Probe(WARMUP),
        Throughput(WARMUP),
        timeout=timeout,
        lockstep=settings.in_flight if settings.deterministic else 0,
        device=device,
    )
    return Running(stage, loop, labels, batches)


def _channels(links: Links, batches: deque[Message]) -> StageChannels:
    if links.upstream is None:
        channels = StageChannels(Source(iter(batches.popleft, None)), Sink(lambda marker: None))
    else:
        channels = StageChannels(links.upstream.receiver, links.upstream.sender)
    if links.downstream is not None:
        channels.activations_out, channels.targets_in = links.downstream.sender, links.downstream.receiver
    return channels
