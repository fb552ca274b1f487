"""The engine that the rest is compared with: stages that never wait for each other."""

from __future__ import annotations

import time
from functools import partial

from torch import nn

from dni_async.errors import StageError
from dni_async.messages import Mark, MarkKind
from dni_async.recipes import parameters_of
from dni_async.stage import Stage
from dni_async.state import State
from launch.build import build_stage
from launch.rank import Rank
from launch.resume import complete, restore
from launch.source import stream
from launch.summary import Recorder
from workers.checkpoint import Checkpoints
from workers.emulate import make_probe
from workers.ends import Sink, Source
from workers.inject import injected
from workers.links import Links, agree_on_transports, open_links
from workers.loop import Ends, StageLoop
from workers.probe import Throughput, process_facts, warmup_steps


def run(rank: Rank) -> nn.Module:
    """Build this rank's stage, join it to its neighbours, and run it to the end. Returns its layers."""
    config, placement, rendezvous = rank.config, rank.placement, rank.rendezvous
    transports = agree_on_transports(rendezvous, config.transport, config.timeout)
    stage, names = build_stage(config, rank.task, rank.blueprint, rank.index, placement.device)
    under_way = restore(rank, stage) if rank.blueprint.start else []
    keep_checkpoints(rank, stage)
    facts = {"layers": names, "parameters": parameters_of(stage.layers)} | placement.describe()
    with open_links(rendezvous, transports, config.in_flight, config.timeout, placement.device) as links:
        ends = _ends(rank, links, rank.record(transports))
        warmup = warmup_steps(rank.blueprint.steps_per_epoch // config.evaluations)
        loop = StageLoop(
            stage,
            ends,
            make_probe(config.emulate_gflops, warmup),
            Throughput(warmup),
            timeout=config.timeout,
            eager=placement.alone,
            lockstep=config.in_flight if config.deterministic else 0,
            facts=lambda: facts | process_facts(),
            device=placement.device,
            under_way=under_way,
        )
        rank.guard.where, rank.guard.doing = loop.where, loop.doing
        loop.run()
    return stage.layers


def keep_checkpoints(rank: Rank, stage: Stage) -> None:
    """Let the stage write its part whenever a CHECKPOINT mark comes by."""
    if rank.config.checkpoint_every is None:
        return
    checkpoints = Checkpoints(rank.config.out)

    def keep(step: int, part: State) -> dict[str, State]:
        return {"checkpoint": checkpoints.write_part(step, stage.index, part)}

    stage.keep = keep


def _ends(rank: Rank, links: Links, recorder: Recorder | None) -> Ends:
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
            start=rank.blueprint.start,
            enough=lambda: recorder.enough,
        )
        ends = Ends(Source(rank.follow(messages)), Sink(partial(_report, rank, recorder)))
    else:
        assert upstream is not None, "only stage 0 has no neighbour upstream"
        ends = Ends(upstream.receiver, upstream.sender)
    if downstream is not None:
        ends.activations_out, ends.targets_in = downstream.sender, downstream.receiver
    return injected(ends, rank.index)


def _report(rank: Rank, recorder: Recorder, mark: Mark) -> None:
    """A mark is back at stage 0. Raises StageError when it brings the result of a part of the test set."""
    tested, size = mark.body["result"]["tested"], rank.blueprint.test_samples
    if mark.kind in (MarkKind.EPOCH, MarkKind.EVALUATION) and tested != size:
        raise StageError(
            f"the evaluation of step {mark.step} was on {tested} of {size} samples: some got lost"
        )
    if mark.kind is MarkKind.CHECKPOINT:
        complete(rank, recorder, mark)
    else:
        recorder.on_mark(mark)
