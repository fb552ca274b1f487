"""The engine that the rest is compared with: stages that never wait for each other."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import nn

from dni_async.errors import StageError
from dni_async.messages import EVALUATIONS, Marker, MarkerKind, TargetGradient
from dni_async.networks.factory import parameters_of
from dni_async.stage.stage import Stage
from launch.job.checkpoints import complete_checkpoint, save_parts
from launch.job.context import RankContext
from launch.job.data import Data
from launch.job.links import agree_on_links, all_near, describe_links
from launch.job.resume import restore_stage, resume_reading
from launch.job.samples import known_size
from launch.job.stage_factory import build_stage
from launch.report.recorder import Recorder
from workers.checkpoint.store import CheckpointStore
from workers.recovery.journal import JournaledSource
from workers.runtime.channels import StageChannels
from workers.runtime.emulation import make_probe
from workers.runtime.endpoints import Sink, Source
from workers.runtime.fault_injection import EventInjector
from workers.runtime.loop import StageLoop
from workers.runtime.probe import Throughput, process_metadata, warmup_steps
from workers.transport.compression import CompressingSender, compress_link
from workers.transport.connect import Links, open_links
from workers.transport.links import Link


def run(context: RankContext, recorder: Recorder | None) -> nn.Module:
    """Build this rank's stage, connect it to its neighbours, and run it to the end. Returns its layers."""
    device, session = context.placement.device, context.session
    transports, speeds = agree_on_links(context)
    config = context.config
    stage, names = build_stage(config, context.task, context.plan, context.index, device)
    under_way = _restore(context, stage)
    context.compile(
        stage.layers,
        context.plan.bounds[context.index][0],
        trains=stage.updater is not None,
        gradients={stage.send_targets, stage.send_targets and stage.target_every == 1},
    )
    save_parts(context, stage)
    context.warm_up()
    journal = (session.storage, session.journal) if session else None
    with open_links(
        context.rendezvous, transports, config.partition.capacity, config.runtime.timeout, device, journal
    ) as links:
        if recorder:
            about = {"in_flight": config.partition.capacity, "links": describe_links(transports, speeds)}
            recorder.start(transports, about)
        links = _compress(context, links, transports)
        loop = _loop(context, recorder, stage, names, links, under_way)
        context.runner.describe_position = loop.describe_position
        context.runner.describe_activity = loop.describe_activity
        if session:
            if recorder:
                session.save_record(recorder.state_dict())
            session.start(stage, loop, context.start.position)
        context.begin_training()
        with context.profiled(loop.probe):
            loop.run()
    if stage.updater:
        stage.updater.take_average()
    return stage.layers


def _restore(context: RankContext, stage: Stage) -> list[TargetGradient]:
    """Load what the stage goes on from, if anything, and return the target gradients that were under way to
    it then. To a stage that was started again they still are."""
    session, resumed = context.session, context.plan.start
    if session is None or session.before is None:
        return restore_stage(context, stage) if resumed else []
    checkpoints = CheckpointStore(context.config.output.out)
    part = checkpoints.newest_part(stage.index, context.plan.bounds, resumed)
    if part is not None:
        stage.load_state_dict(part)
    if part is not None or not resumed:
        resume_reading(context, part)
    else:
        restore_stage(context, stage)
    session.restore_counters(stage)
    return []


def _loop(
    context: RankContext,
    recorder: Recorder | None,
    stage: Stage,
    names: list[str],
    links: Links,
    under_way: list[TargetGradient],
) -> StageLoop:
    config, placement, session = context.config, context.placement, context.session
    warmup = warmup_steps(context.plan.steps_per_epoch // config.evaluation.evaluations)
    constant = {"layers": names, "parameters": parameters_of(stage.layers)} | placement.describe()

    def metadata() -> dict[str, Any]:
        return (
            constant
            | process_metadata(placement.device)
            | _message_bytes(links)
            | _pinned(links)
            | (session.metadata() if session else {})
        )

    return StageLoop(
        stage,
        _channels(context, recorder, links),
        make_probe(config.runtime.emulate_gflops, warmup, placement.device, config.runtime.timeout),
        Throughput(warmup),
        timeout=config.runtime.timeout,
        eager=placement.alone,
        lockstep=config.partition.capacity if config.runtime.deterministic else 0,
        metadata=metadata,
        device=placement.device,
        under_way=under_way,
    )


def _compress(context: RankContext, links: Links, transports: list[str]) -> Links:
    """Return the links with messages in the format of --wire, and with their bytes counted; the same links
    where all are within a host and nothing is compressed."""
    wire, plan = context.config.runtime.wire, context.plan
    if wire == "fp32" and all_near(transports):
        return links
    first, end = plan.bounds[context.index]

    def compress(link: Link | None, layer: int) -> Link | None:
        """The link behind the output of a layer."""
        return link and compress_link(link, wire, plan.shapes[layer], getattr(torch, plan.dtypes[layer]))

    return Links(compress(links.upstream, first - 1), compress(links.downstream, end - 1))


def _message_bytes(links: Links) -> dict[str, Any]:
    """Return the mean payload of a training batch's message in each direction, where it is counted."""
    ends = {"downstream": links.downstream, "upstream": links.upstream}
    senders = {name: link.sender for name, link in ends.items() if link}
    sizes = {
        name: sender.bytes_per_batch()
        for name, sender in senders.items()
        if isinstance(sender, CompressingSender)
    }
    return {"message_bytes": sizes} if sizes else {}


def _pinned(links: Links) -> dict[str, Any]:
    """Return whether a GPU copies messages into pinned memory; nothing for a stage on the CPU."""
    known = [link.sender.pinned() for link in (links.upstream, links.downstream) if link]
    return {"pinned": all(known)} if None not in known and known else {}


def _channels(context: RankContext, recorder: Recorder | None, links: Links) -> StageChannels:
    """Return the stage's inputs and outputs; stage 0 has the data and the recorder in place of a neighbour
    upstream."""
    upstream, downstream = links.upstream, links.downstream
    if recorder is not None:
        host = torch.device("cpu")  # the loop copies batches to a GPU, beside the computation
        messages = context.messages(time.perf_counter, lambda: recorder.should_stop, host)
        source = JournaledSource(messages, context.session.journal) if context.session else Source(messages)
        channels = StageChannels(source, Sink(partial(_report, context, recorder)))
    else:
        assert upstream is not None, "only stage 0 has no neighbour upstream"
        channels = StageChannels(upstream.receiver, upstream.sender)
    if downstream is not None:
        channels.activations_out, channels.targets_in = downstream.sender, downstream.receiver
    return EventInjector.from_environment(context.index).wrap(channels)


def _report(context: RankContext, recorder: Recorder, marker: Marker) -> None:
    """Record a marker that is back at stage 0. Raises StageError when its evaluation lacks samples."""
    assert context.data is not None
    tested, wanted = marker.body["result"]["tested"], _evaluated(marker.kind, context.data)
    if wanted not in (None, tested):
        raise StageError(
            f"the evaluation of step {marker.step} was on {tested} of {wanted} samples: some got lost"
        )
    if marker.kind is MarkerKind.CHECKPOINT:
        complete_checkpoint(context, recorder, marker)
    else:
        recorder.on_marker(marker)
    if context.session:
        context.session.save_record(recorder.state_dict())


def _evaluated(kind: MarkerKind, data: Data) -> int | None:
    """Return the number of samples whose scores a marker of this kind brings; None if it brings none, or if
    only reading would show it."""
    if kind in EVALUATIONS:
        return known_size(data.evaluated)
    return known_size(data.test) if kind is MarkerKind.STOP and data.validation is not None else None
