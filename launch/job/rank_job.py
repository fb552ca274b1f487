"""One rank of a job, from the rendezvous with the others to its last file.

rendezvous ─ checks ─ placement ─ rank 0: data, start, plan ─┬─ engine trains ─ weights ─ rank 0: files, table
                                  others: wait for the plan ─┘
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from dni_async.contract import describe_value
from dni_async.errors import UserError
from dni_async.nonfinite import NonFinite, all_finite
from launch.config.train import TrainConfig
from launch.engines.registry import Engine, find_engine
from launch.job.context import RankContext
from launch.job.data import Data, read
from launch.job.partition_plan import PartitionPlan, broadcast_error, broadcast_plan
from launch.job.progress_file import ProgressFile, lost_steps
from launch.job.recovery_session import RecoverySession, supervise
from launch.job.restart import begin, decide_start, with_checkpoints
from launch.job.results import save_results
from launch.job.run_lock import RunLock
from launch.job.start import Start
from launch.job.task_checks import check_labels_of_batches, check_state, check_until
from launch.report.files import prepare_out
from launch.report.recorder import Recorder
from tasks.base import Task
from workers.coordination.rendezvous import Rendezvous
from workers.failure.errors import at_position
from workers.failure.rank_runner import RankRunner
from workers.recovery.stable_storage import StableStorage
from workers.runtime.device import allow_tf32, make_deterministic, physical_cores, place


def start_rank(runner: RankRunner, config: TrainConfig, task: Task) -> None:
    """Run this rank, under a supervisor if `--supervise` is set."""
    if config.recovery.supervise:
        supervise(runner, config, lambda runner, storage: run_rank(runner, config, task, storage))
    else:
        run_rank(runner, config, task)


def run_rank(
    runner: RankRunner, config: TrainConfig, task: Task, storage: StableStorage | None = None
) -> None:
    """Run this rank of the job to its end.

    Args:
        storage: of a supervised rank, the memory that outlives its process.

    Raises:
        UserError, StageError: in one line each.
    """
    engine = find_engine(config.engine)
    rendezvous = runner.join(config.runtime.timeout)
    runner.folder = prepare_out(config.output.out) if config.output.out else None
    config = with_checkpoints(config, rendezvous)
    _check_world(config, engine, rendezvous.world)
    check_until(task, config.evaluation.until)
    check_state(
        task, config.engine, config.recovery.on_nonfinite, config.recovery.supervise, config.runtime.compile
    )
    threads = physical_cores() if engine.all_cores else config.runtime.threads
    if config.runtime.deterministic:
        make_deterministic(config.runtime.device)
    if config.runtime.tf32:
        allow_tf32(config.runtime.device)
    placement = place(config.runtime.device, threads, rendezvous.local_rank, rendezvous.local_world)
    session = RecoverySession(storage, config.runtime.timeout) if storage else None
    data, start, plan = _prepare(config, engine, task, rendezvous, placement.device, session)
    context = RankContext(runner, config, task, plan, rendezvous, placement, data, start, session)
    recorder = Recorder(context) if rendezvous.rank == 0 else None
    _announce(config, rendezvous, f"starting {engine.processes_text(rendezvous.world)}")
    module = import_module(engine.module)
    layers = module.run(context, recorder)
    if not isinstance(layers, nn.Module | None):
        wanted = "the layers that this process saves, an nn.Module, or None"
        raise UserError(f"{module.__name__}.run returned {describe_value(layers)}; it must return {wanted}")
    weights = [] if layers is None else list(layers.parameters())
    if config.recovery.on_nonfinite == "stop" and not all_finite(weights):
        error = NonFinite("the weights have NaN or infinite values")
        raise at_position(error, runner.describe_position())
    runner.begin("while writing the results")
    runner.interruption.end_training()
    save_results(context, recorder, layers)


def _announce(config: TrainConfig, rendezvous: Rendezvous, text: str) -> None:
    """Print what rank 0 does before the first step, which may take seconds."""
    if rendezvous.rank == 0 and not config.output.quiet:
        print(f"dni-async: {text}", flush=True)


def _check_world(config: TrainConfig, engine: Engine, world: int) -> None:
    if config.partition.stages and config.partition.stages != world:
        raise UserError(
            f"{config.partition.stages} stages were asked for and {world} ranks run; change one of them"
        )
    if engine.together and world < 2:
        raise UserError(f"engine {config.engine} needs two processes or more; set --stages")
    if engine.processes not in (None, world):
        raise UserError(f"engine {config.engine} runs in one process, not {world}; start it with one rank")


def _prepare(
    config: TrainConfig,
    engine: Engine,
    task: Task,
    rendezvous: Rendezvous,
    device: torch.device,
    session: RecoverySession | None,
) -> tuple[Data | None, Start, PartitionPlan]:
    """Return the data, where this rank reads it, on rank 0 where the run starts, and the plan.

    Rank 0 reads first: it may have to download, and it reports what is wrong with the data. A supervised
    rank 0 whose process has died takes start and plan from before.
    """
    if rendezvous.rank > 0:
        for module in (engine.module, "torch._dynamo"):  # optimizers import the latter: a second, which
            import_module(module)  # this rank has while rank 0 reads the data and measures the layers
        plan = broadcast_plan(rendezvous, config, task, None)
        data = _read(config, engine, task, rendezvous) if engine.everybody_reads else None
        return data, Start(), plan
    if session and (position := session.position()):
        RunLock(Path(config.output.out))
        plan = broadcast_plan(rendezvous, config, task, None)
        out, step = Path(config.output.out), position.step
        lost = lost_steps(out, step, restart=True)
        start = Start(position, progress_file=ProgressFile(out, step, lost), lost_steps=lost)
        return _read(config, engine, task, rendezvous), start, plan
    try:
        if config.output.out:
            RunLock(Path(config.output.out))  # held to the end of the process
        _announce(config, rendezvous, f"reading the data of {task.name}")
        data = _read(config, engine, task, rendezvous)
        if engine.cut and config.partition.cut_layers() is None and rendezvous.world > 1:
            _announce(config, rendezvous, "measuring the layers, for the cut")
        start = decide_start(config, task, data, rendezvous)
        planned = config if start.cut == config.partition.cut else config.changed(cut=start.cut)
        plan = broadcast_plan(
            rendezvous,
            planned,
            task,
            data,
            device,
            start.position.step,
            begin=lambda: begin(config, rendezvous, start),
        )
    except Exception as error:
        broadcast_error(rendezvous, error)
        raise
    return data, start, plan


def _read(config: TrainConfig, engine: Engine, task: Task, rendezvous: Rendezvous) -> Data:
    part = (rendezvous.rank, rendezvous.world) if engine.shares_batches else (0, 1)
    announce = partial(_announce, config, rendezvous)
    gpu, timeout = config.runtime.device == "cuda", config.runtime.timeout
    data = read(
        config.task,
        task,
        part,
        config.evaluation.patience,
        config.data,
        pin=gpu,
        timeout=timeout,
        announce=announce,
    )
    check_labels_of_batches(task, data)
    return data
