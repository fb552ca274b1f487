"""One rank of a job, from the meeting with the others to its last message.

rendezvous ─ placement ─ rank 0: data, blueprint ─┬─ the engine runs ─ weights ─ rank 0: files, table
                         others: wait for it      ┘
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dni_async.errors import UserError
from launch.blueprint import Blueprint, agree, tell_failure
from launch.checks import check_state, check_until
from launch.config import TrainConfig
from launch.data import Data, read
from launch.elastic import begin, elastic
from launch.engines import ENGINES, Engine
from launch.files import prepare_out
from launch.rank import Rank
from launch.resume import Start
from launch.summary import Recorder
from launch.supervised import Life, supervise
from launch.tables import run_grid, show
from launch.trail import Trail
from launch.weights import save_part
from tasks.base import Task
from workers.device import Placement, physical_cores, place
from workers.recovery.stable import Stable
from workers.rendezvous import Rendezvous
from workers.supervise import Guard


def start_rank(guard: Guard, config: TrainConfig, task: Task) -> None:
    """Be one rank: its process, or with --supervise the supervisor of its process."""
    if config.supervise:
        supervise(guard, config, lambda guard, stable: run_rank(guard, config, task, stable))
    else:
        run_rank(guard, config, task)


def run_rank(guard: Guard, config: TrainConfig, task: Task, stable: Stable | None = None) -> None:
    """Everything that this process does for the job. Raises UserError and StageError.

    stable: of a supervised rank, what outlives the process.
    """
    engine = ENGINES[config.engine]
    rendezvous = guard.meet(config.timeout)
    guard.folder = prepare_out(config.out) if config.out else None
    config = elastic(config, rendezvous)
    _check_world(config, engine, rendezvous.world)
    check_until(task, config.until)
    check_state(task, config.engine, config.on_nonfinite, config.supervise, config.compile)
    threads = physical_cores() if engine.all_cores else config.threads
    placement = place(config.device, threads, rendezvous.local_rank, rendezvous.local_world)
    life = Life(stable, config.timeout) if stable else None
    data, blueprint, start = _prepare(config, engine, task, rendezvous, placement, life)
    rank = Rank(
        guard,
        config,
        task,
        blueprint,
        rendezvous,
        placement,
        data,
        start.notes,
        start.record,
        start.trail,
        life,
    )
    layers = engine.run(rank)
    if config.out and layers is not None:
        first = blueprint.bounds[rank.index][0] if engine.cut else 0
        save_part(Path(config.out), rank.index, first, layers)
    if rank.recorder:
        _finish(rank.recorder, config)


def _check_world(config: TrainConfig, engine: Engine, world: int) -> None:
    if config.stages and config.stages != world:
        raise UserError(f"{config.stages} stages were asked for and {world} ranks run; change one of them")
    if engine.together and world < 2:
        raise UserError(f"engine {config.engine} needs two processes or more; set --stages")
    if engine.processes not in (None, world):
        raise UserError(f"engine {config.engine} runs in one process, not {world}; start it with one rank")


def _prepare(
    config: TrainConfig,
    engine: Engine,
    task: Task,
    rendezvous: Rendezvous,
    placement: Placement,
    life: Life | None = None,
) -> tuple[Data | None, Blueprint, Start]:
    """The data, where this rank reads it, what rank 0 has found out about them, and on rank 0 where it
    starts.

    life: of a supervised rank, where a process before this one may have found that out.
    """
    if rendezvous.rank > 0:  # rank 0 reads first: it may have to download, and says what is wrong
        blueprint = agree(rendezvous, config, task, None)
        data = _read(config, engine, task, rendezvous) if engine.everybody_reads else None
        return data, blueprint, Start()
    if life and life.position:
        blueprint = agree(rendezvous, config, task, None)
        trail = Trail(Path(config.out), life.position.step, goes_on=True, restart=True)
        return _read(config, engine, task, rendezvous), blueprint, Start(trail=trail)
    try:
        data = _read(config, engine, task, rendezvous)
        start = begin(config, task, data, rendezvous)
        planned = config if start.cut == config.cut else replace(config, cut=start.cut)
        return data, agree(rendezvous, planned, task, data, placement.device, start.step), start
    except Exception as error:
        tell_failure(rendezvous, error)
        raise


def _read(config: TrainConfig, engine: Engine, task: Task, rendezvous: Rendezvous) -> Data:
    part = (rendezvous.rank, rendezvous.world) if engine.shares_batches else (0, 1)
    return read(config, task, part)


def _finish(recorder: Recorder, config: TrainConfig) -> None:
    """Write the files and show the table."""
    recorder.write_files()
    if not config.quiet:
        # its notes were shown at the start
        show(run_grid(recorder.summary | {"notes": recorder.warnings}))
