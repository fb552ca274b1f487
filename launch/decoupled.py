"""The engine that the rest is compared with: stages that never wait for each other."""

from __future__ import annotations

import time
from functools import partial

from torch import nn

from dni_async.errors import StageError
from dni_async.messages import EVALUATIONS, Mark, MarkKind, TargetGradient
from dni_async.recipes import parameters_of
from dni_async.stage import Stage
from dni_async.state import State
from launch.build import build_stage
from launch.data import Data, size
from launch.rank import Rank
from launch.resume import complete, restore
from launch.source import Position, stream
from launch.summary import Recorder
from workers.checkpoint import Checkpoints
from workers.emulate import make_probe
from workers.ends import Sink, Source
from workers.inject import EventInjector
from workers.links import Links, agree_on_transports, open_links
from workers.loop import Ends, StageLoop
from workers.probe import Throughput, process_facts, warmup_steps
from workers.recovery.numbered import NumberedSource


def run(rank: Rank) -> nn.Module:
    """Build this rank's stage, join it to its neighbours, and run it to the end. Returns its layers."""
    config, placement, rendezvous = rank.config, rank.placement, rank.rendezvous
    transports = agree_on_transports(rendezvous, config.transport, config.timeout)
    stage, names = build_stage(config, rank.task, rank.blueprint, rank.index, placement.device)
    under_way = _take_up(rank, stage)
    rank.compile(
        stage.layers,
        rank.blueprint.bounds[rank.index][0],
        trains=stage.updater is not None,
        gradients={stage.send_targets, stage.send_targets and stage.target_every == 1},
    )
    keep_checkpoints(rank, stage)
    facts = {"layers": names, "parameters": parameters_of(stage.layers)} | placement.describe()
    journal = (rank.life.stable, rank.life.journal) if rank.life else None
    with open_links(
        rendezvous, transports, config.in_flight, config.timeout, placement.device, journal
    ) as links:
        position = _position(rank)
        ends = _ends(rank, links, rank.record(transports), position)
        warmup = warmup_steps(rank.blueprint.steps_per_epoch // config.evaluations)
        loop = StageLoop(
            stage,
            ends,
            make_probe(config.emulate_gflops, warmup),
            Throughput(warmup),
            timeout=config.timeout,
            eager=placement.alone,
            lockstep=config.in_flight if config.deterministic else 0,
            facts=lambda: facts | process_facts() | (rank.life.facts() if rank.life else {}),
            device=placement.device,
            under_way=under_way,
        )
        rank.guard.where, rank.guard.doing = loop.where, loop.doing
        if rank.life:
            rank.life.begin(stage, loop, rank.recorder, position)
        loop.run()
    return stage.layers


def keep_checkpoints(rank: Rank, stage: Stage) -> None:
    """Let the stage write its part whenever a CHECKPOINT mark comes by."""
    if rank.config.checkpoint_every is None:
        return
    checkpoints = Checkpoints(rank.config.out)

    def keep(step: int, part: State | None) -> dict[str, State]:
        if part is None:
            return {"checkpoint": {"error": f"stage {stage.index} was started again meanwhile"}}
        return {"checkpoint": checkpoints.write_part(step, stage.index, part)}

    stage.keep = keep


def _take_up(rank: Rank, stage: Stage) -> list[TargetGradient]:
    """Bring the stage to where it was, if it goes on from anywhere. Gives the targets that were on their way
    to it then; to a stage that is started again, they still are."""
    life, start = rank.life, rank.blueprint.start
    if life is None or life.before is None:
        return restore(rank, stage) if start else []
    part = Checkpoints(rank.config.out).newest_part(stage.index, rank.blueprint.bounds)
    if part is not None:
        stage.load_state_dict(part)
    elif start:
        restore(rank, stage)
    life.take_over(stage)
    return []


def _position(rank: Rank) -> Position:
    """Where the stream goes on."""
    before = rank.life.position if rank.life else None
    return before or Position(rank.blueprint.start)


def _ends(rank: Rank, links: Links, recorder: Recorder | None, position: Position) -> Ends:
    """The stage's ways in and out; stage 0 has the data and the report where others have a neighbour."""
    upstream, downstream = links.upstream, links.downstream
    if rank.data is not None and recorder is not None:
        messages = stream(
            rank.data,
            rank.config.epochs,
            rank.placement.device,
            time.perf_counter,
            evaluations=rank.config.evaluations,
            checkpoint_every=rank.config.checkpoint_every,
            start=position.step,
            behind=position.behind,
            kept=position.kept,
            enough=lambda: recorder.enough,
        )
        messages = position.follow(rank.follow(messages))
        source = NumberedSource(messages, rank.life.journal) if rank.life else Source(messages)
        ends = Ends(source, Sink(partial(_report, rank, recorder)))
    else:
        assert upstream is not None, "only stage 0 has no neighbour upstream"
        ends = Ends(upstream.receiver, upstream.sender)
    if downstream is not None:
        ends.activations_out, ends.targets_in = downstream.sender, downstream.receiver
    return EventInjector.from_environment(rank.index).between(ends)


def _report(rank: Rank, recorder: Recorder, mark: Mark) -> None:
    """A mark is back at stage 0. Raises StageError when it brings the result of a part of a set."""
    assert rank.data is not None
    tested, wanted = mark.body["result"]["tested"], _wanted(mark.kind, rank.data)
    if wanted not in (None, tested):
        raise StageError(
            f"the evaluation of step {mark.step} was on {tested} of {wanted} samples: some got lost"
        )
    if mark.kind is MarkKind.CHECKPOINT:
        complete(rank, recorder, mark)
    else:
        recorder.on_mark(mark)
    if rank.life:
        rank.life.keep_record(recorder)


def _wanted(kind: MarkKind, data: Data) -> int | None:
    """How many samples are in front of such a mark, if it brings their scores."""
    if kind in EVALUATIONS:
        return size(data.evaluated)
    return size(data.test) if kind is MarkKind.STOP and data.validation is not None else None
