"""One rank of a job, from the meeting with the others to its last message.

rendezvous ─ placement ─ rank 0: data, plan ─┬─ the engine runs ─ weights ─ rank 0: files, table
                         others: wait for it      ┘
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dni_async.errors import UserError
from launch.config.train import TrainConfig
from launch.engines.registry import ENGINES, Engine
from launch.job.context import RankContext
from launch.job.data import Data, read
from launch.job.partition_plan import PartitionPlan, broadcast_error, broadcast_plan
from launch.job.progress_file import ProgressFile
from launch.job.recovery_session import RecoverySession, supervise
from launch.job.restart import begin, elastic
from launch.job.resume import Start
from launch.job.task_checks import check_state, check_until
from launch.report.files import prepare_out
from launch.report.recorder import Recorder
from launch.report.tables import run_grid, show
from launch.report.weights import save_part
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous
from workers.failure.rank_runner import RankRunner
from workers.recovery.stable_storage import StableStorage
from workers.runtime.device import Placement, physical_cores, place


def start_rank(runner: RankRunner, config: TrainConfig, task: Task) -> None:
    """Be one rank: its process, or with --supervise the supervisor of its process."""
    if config.supervise:
        supervise(runner, config, lambda runner, stable: run_rank(runner, config, task, stable))
    else:
        run_rank(runner, config, task)


def run_rank(
    runner: RankRunner, config: TrainConfig, task: Task, stable: StableStorage | None = None
) -> None:
    """Everything that this process does for the job. Raises UserError and StageError.

    stable: of a supervised rank, what outlives the process.
    """
    engine = ENGINES[config.engine]
    rendezvous = runner.join(config.timeout)
    runner.folder = prepare_out(config.out) if config.out else None
    config = elastic(config, rendezvous)
    _check_world(config, engine, rendezvous.world)
    check_until(task, config.until)
    check_state(task, config.engine, config.on_nonfinite, config.supervise, config.compile)
    threads = physical_cores() if engine.all_cores else config.threads
    placement = place(config.device, threads, rendezvous.local_rank, rendezvous.local_world)
    session = RecoverySession(stable, config.timeout) if stable else None
    data, plan, start = _prepare(config, engine, task, rendezvous, placement, session)
    context = RankContext(
        runner,
        config,
        task,
        plan,
        rendezvous,
        placement,
        data,
        start.notes,
        start.record,
        start.progress_file,
        session,
    )
    layers = engine.run(context)
    if config.out and layers is not None:
        first = plan.bounds[context.index][0] if engine.cut else 0
        save_part(Path(config.out), context.index, first, layers)
    if context.recorder:
        _finish(context.recorder, config)


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
    session: RecoverySession | None = None,
) -> tuple[Data | None, PartitionPlan, Start]:
    """The data, where this rank reads it, what rank 0 has found out about them, and on rank 0 where it
    starts.

    session: of a supervised rank, where a process before this one may have found that out.
    """
    if rendezvous.rank > 0:  # rank 0 reads first: it may have to download, and says what is wrong
        plan = broadcast_plan(rendezvous, config, task, None)
        data = _read(config, engine, task, rendezvous) if engine.everybody_reads else None
        return data, plan, Start()
    if session and session.position:
        plan = broadcast_plan(rendezvous, config, task, None)
        progress_file = ProgressFile(Path(config.out), session.position.step, goes_on=True, restart=True)
        return _read(config, engine, task, rendezvous), plan, Start(progress_file=progress_file)
    try:
        data = _read(config, engine, task, rendezvous)
        start = begin(config, task, data, rendezvous)
        planned = config if start.cut == config.cut else replace(config, cut=start.cut)
        return data, broadcast_plan(rendezvous, planned, task, data, placement.device, start.step), start
    except Exception as error:
        broadcast_error(rendezvous, error)
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
