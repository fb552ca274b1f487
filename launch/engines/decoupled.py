"""The engine that the rest is compared with: stages that never wait for each other."""

from __future__ import annotations

import time
from functools import partial

from torch import nn

from dni_async.errors import StageError
from dni_async.messages import EVALUATIONS, Marker, MarkerKind, TargetGradient
from dni_async.networks.factory import parameters_of
from dni_async.stage.stage import Stage
from dni_async.state.state_dict import State
from launch.job.context import RankContext
from launch.job.data import Data, size
from launch.job.message_stream import Position, stream
from launch.job.resume import complete, restore
from launch.job.stage_factory import build_stage
from launch.report.recorder import Recorder
from workers.checkpoint.store import CheckpointStore
from workers.recovery.journaled_source import JournaledSource
from workers.runtime.emulation import make_probe
from workers.runtime.endpoints import Sink, Source
from workers.runtime.fault_injection import EventInjector
from workers.runtime.loop import StageChannels, StageLoop
from workers.runtime.probe import Throughput, process_metadata, warmup_steps
from workers.transport.connect import Links, agree_on_transports, open_links


def run(context: RankContext) -> nn.Module:
    """Build this rank's stage, join it to its neighbours, and run it to the end. Returns its layers."""
    config, placement, rendezvous = context.config, context.placement, context.rendezvous
    transports = agree_on_transports(rendezvous, config.transport, config.timeout)
    stage, names = build_stage(config, context.task, context.plan, context.index, placement.device)
    under_way = _take_up(context, stage)
    context.compile(
        stage.layers,
        context.plan.bounds[context.index][0],
        trains=stage.updater is not None,
        gradients={stage.send_targets, stage.send_targets and stage.target_every == 1},
    )
    keep_checkpoints(context, stage)
    metadata = {"layers": names, "parameters": parameters_of(stage.layers)} | placement.describe()
    journal = (context.session.stable, context.session.journal) if context.session else None
    with open_links(
        rendezvous, transports, config.in_flight, config.timeout, placement.device, journal
    ) as links:
        position = _position(context)
        ends = _ends(context, links, context.record(transports), position)
        warmup = warmup_steps(context.plan.steps_per_epoch // config.evaluations)
        loop = StageLoop(
            stage,
            ends,
            make_probe(config.emulate_gflops, warmup),
            Throughput(warmup),
            timeout=config.timeout,
            eager=placement.alone,
            lockstep=config.in_flight if config.deterministic else 0,
            metadata=lambda: (
                metadata | process_metadata() | (context.session.metadata() if context.session else {})
            ),
            device=placement.device,
            under_way=under_way,
        )
        context.runner.describe_position = loop.describe_position
        context.runner.describe_activity = loop.describe_activity
        if context.session:
            context.session.begin(stage, loop, context.recorder, position)
        loop.run()
    return stage.layers


def keep_checkpoints(context: RankContext, stage: Stage) -> None:
    """Let the stage write its part whenever a CHECKPOINT marker comes by."""
    if context.config.checkpoint_every is None:
        return
    checkpoints = CheckpointStore(context.config.out)

    def keep(step: int, part: State | None) -> dict[str, State]:
        if part is None:
            return {"checkpoint": {"error": f"stage {stage.index} was started again meanwhile"}}
        return {"checkpoint": checkpoints.write_part(step, stage.index, part)}

    stage.save_checkpoint = keep


def _take_up(context: RankContext, stage: Stage) -> list[TargetGradient]:
    """Bring the stage to where it was, if it goes on from anywhere. Gives the targets that were on their way
    to it then; to a stage that is started again, they still are."""
    session, start = context.session, context.plan.start
    if session is None or session.before is None:
        return restore(context, stage) if start else []
    part = CheckpointStore(context.config.out).newest_part(stage.index, context.plan.bounds)
    if part is not None:
        stage.load_state_dict(part)
    elif start:
        restore(context, stage)
    session.restore_counters(stage)
    return []


def _position(context: RankContext) -> Position:
    """Where the stream goes on."""
    before = context.session.position if context.session else None
    return before or Position(context.plan.start)


def _ends(context: RankContext, links: Links, recorder: Recorder | None, position: Position) -> StageChannels:
    """The stage's ways in and out; stage 0 has the data and the report where others have a neighbour."""
    upstream, downstream = links.upstream, links.downstream
    if context.data is not None and recorder is not None:
        messages = stream(
            context.data,
            context.config.epochs,
            context.placement.device,
            time.perf_counter,
            evaluations=context.config.evaluations,
            checkpoint_every=context.config.checkpoint_every,
            start=position.step,
            behind=position.behind,
            kept=position.kept,
            enough=lambda: recorder.enough,
        )
        messages = position.follow(context.follow(messages))
        source = JournaledSource(messages, context.session.journal) if context.session else Source(messages)
        ends = StageChannels(source, Sink(partial(_report, context, recorder)))
    else:
        assert upstream is not None, "only stage 0 has no neighbour upstream"
        ends = StageChannels(upstream.receiver, upstream.sender)
    if downstream is not None:
        ends.activations_out, ends.targets_in = downstream.sender, downstream.receiver
    return EventInjector.from_environment(context.index).between(ends)


def _report(context: RankContext, recorder: Recorder, marker: Marker) -> None:
    """A marker is back at stage 0. Raises StageError when it brings the result of a part of a set."""
    assert context.data is not None
    tested, wanted = marker.body["result"]["tested"], _wanted(marker.kind, context.data)
    if wanted not in (None, tested):
        raise StageError(
            f"the evaluation of step {marker.step} was on {tested} of {wanted} samples: some got lost"
        )
    if marker.kind is MarkerKind.CHECKPOINT:
        complete(context, recorder, marker)
    else:
        recorder.on_marker(marker)
    if context.session:
        context.session.keep_record(recorder)


def _wanted(kind: MarkerKind, data: Data) -> int | None:
    """How many samples are in front of such a marker, if it brings their scores."""
    if kind in EVALUATIONS:
        return size(data.evaluated)
    return size(data.test) if kind is MarkerKind.STOP and data.validation is not None else None
