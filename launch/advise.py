"""Which engine pays on devices that you do not have here yet? A short comparison and a prediction, one page.

python -m launch.advise --task mnist-fcn --devices 8 --link pcie --out runs/a
python -m launch.advise --task my_task:Tumours --devices 4 --link wan:50ms,100mbit
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from dni_async.errors import UserError
from launch.config.advise import AdviseConfig
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.contestants import Contestant
from launch.config.plan import PlanConfig
from launch.config.run_file import write_run_file
from launch.job.data import read
from launch.job.run_lock import RunLock
from launch.local.comparing import compare_contestants
from launch.planning.evidence import Evidence, learned_in_process, stages_here
from launch.report.advice_page import Advice, advice_grid, page, sentences
from launch.report.files import prepare_out, write_json
from launch.report.grid import show
from launch.report.machine_load import MachineLoad
from tasks.base import Task
from tasks.registry import create
from workers.checkpoint.atomic_file import write_whole
from workers.failure.rank_runner import RankRunner, run_command


def work(runner: RankRunner) -> None:
    """Advise on the task of the command line in its output folder, which no other run may use meanwhile."""
    config = parse(AdviseConfig, "launch.advise")
    task = create(config.task.name, config.task.task_args)
    if task.carries_state:
        raise UserError(
            f"an advice measures layers on parts of a batch, and those of {task.name} carry state from batch "
            "to batch; set engines side by side with launch.compare"
        )
    out = prepare_out(config.output.out or tempfile.mkdtemp(prefix="dni_async-advise-"))
    with RunLock(out):
        write_run_file(out, "advise", config)
        advice = advise(config, task, out, runner)
        write_whole(out / "advise.md", page(advice).encode())
        data = asdict(advice) | {"decision": asdict(advice.decision), "sentences": sentences(advice)}
        write_json(out / "advise.json", data | {"settings": config.as_json()})
    if not config.output.quiet:
        print("\n" + "\n\n".join(sentences(advice)) + "\n")
        show(advice_grid(advice))
        print(f"written to {out}")


def advise(config: AdviseConfig, task: Task, out: Path, runner: RankRunner) -> Advice:
    """Measure the profile, run every engine shortly, and predict.

    Raises:
        UserError, StageError: the task does not fit, or every engine failed.
    """
    say(config, "measuring layers, SG networks and messages")
    runner.describe_position = lambda: "while costs were measured"
    from launch.planning.measure import measure  # torch's optimizers: a second that bad options do not need

    profile = measure(config.to(PlanConfig, stages=0, wan="", profile=""), task)
    profile.save(out / "profile.json")
    stages = stages_here(config, len(profile.layers))
    steps = read(config.task, task, data=config.data).steps_per_epoch
    comparison = config.comparison(stages, steps).changed(out=str(out / "compare"))
    say(config, f"running {len(comparison.engines)} engines, {config.repeats} times each: some minutes")
    load = MachineLoad()
    rows, _ = compare_contestants(comparison, contestants_of(comparison), runner, task)
    evidence = Evidence(config, profile, rows, stages, load.notes())
    if config.runtime.device == "cpu":
        for rule, count in evidence.decoupled():
            say(config, f"{rule} learns in {count} stages of one process")
            runner.describe_position = lambda rule=rule: f"while {rule} learned"  # type: ignore[misc]
            evidence.learned[rule] = learned_in_process(comparison, task, rule, count)
    return evidence.advice(
        task.metric_name, comparison.task.epochs * (comparison.data.steps_per_epoch or steps)
    )


def contestants_of(config: CompareConfig) -> list[Contestant]:
    """Return the contestants of a comparison whose engines have no settings of their own."""
    return [Contestant(engine, engine, config, {}) for engine in config.engines]


def say(config: AdviseConfig, line: str) -> None:
    """Print what happens now, unless --quiet is given."""
    if not config.output.quiet:
        print(line, flush=True)


if __name__ == "__main__":
    run_command(work)
