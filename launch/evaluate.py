"""Loss and metric of a trained network on a data set: python -m launch.evaluate --run runs/a"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from launch.config.checks import not_empty
from launch.config.command_line import parse
from launch.report.evaluation import metric_key
from launch.report.text import metric, number
from launch.trained import TrainedNetwork, load_run
from workers.failure.rank_runner import RankRunner, run_command


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """Measure the network of a finished run on a data set of its task."""

    run: str
    """The --out of the run."""
    split: Literal["test", "train", "validation"] = "test"
    """The data set."""
    data_root: str = ""
    """Folder with the data sets; by default that of the run."""

    def __post_init__(self) -> None:
        not_empty(run=self.run)


def line_of(trained: TrainedNetwork, split: str, result: dict[str, Any]) -> str:
    """Return `digits-fcn, cdni: test accuracy 96.00 %, test loss 0.1234, 300 samples`."""
    name = trained.task.metric_name
    score = metric(result[metric_key(split, name)], name, digits=2)
    loss = number(result[f"{split}_loss"], 4)
    about = f"{trained.summary['task']}, {trained.summary['engine']}"
    return f"{about}: {split} {name} {score}, {split} loss {loss}, {result['samples']:,} samples"


def work(runner: RankRunner) -> None:
    """Parse the command line, measure, print."""
    config = parse(EvaluateConfig, "launch.evaluate")
    trained = load_run(config.run)
    print(line_of(trained, config.split, trained.evaluate(config.split, config.data_root)), flush=True)


if __name__ == "__main__":
    run_command(work)
