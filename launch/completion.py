"""Completion of options in a shell.

dni-async completion bash > ~/.local/share/bash-completion/completions/dni-async
dni-async completion zsh > ~/.zfunc/_dni-async
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro

from dni_async.errors import UserError
from launch.bench import BenchConfig
from launch.config.advise import AdviseConfig
from launch.config.compare import CompareConfig
from launch.config.plan import PlanConfig
from launch.config.recurrent import WindowsConfig
from launch.config.report import ReportConfig
from launch.config.study import StudyConfig
from launch.config.sweep import SweepConfig
from launch.config.train import TrainConfig
from launch.evaluate import EvaluateConfig
from launch.export import ExportConfig
from launch.generate import GenerateConfig
from launch.latency import LatencyConfig
from launch.predict import PredictConfig
from workers.failure.rank_runner import RankRunner, run_command

SHELLS = ("bash", "zsh")
CONFIGS: dict[str, Callable[..., Any]] = {
    "train": TrainConfig,
    "compare": CompareConfig,
    "sweep": SweepConfig,
    "study": StudyConfig,
    "plan": PlanConfig,
    "advise": AdviseConfig,
    "latency": LatencyConfig,
    "windows": WindowsConfig,
    "bench": BenchConfig,
    "generate": GenerateConfig,
    "predict": PredictConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "report": ReportConfig,
}
"""The options of every command."""


def script(shell: str) -> str:
    """Return the script that completes `dni-async` in a shell. Raises UserError for another shell."""
    if shell not in SHELLS:
        raise UserError(f"unknown shell ({shell or 'none given'}); use one of {', '.join(SHELLS)}")
    printed, arguments = io.StringIO(), ["--tyro-print-completion", shell]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(CONFIGS, prog="dni-async", args=arguments)
    return re.sub(r"(?m)^(COMPLETION_SPEC = )(.*)$", _one_line_each, printed.getvalue())


def _one_line_each(spec: re.Match[str]) -> str:
    """Return the options in bash's script with each description in one line: bash takes lines for values."""

    def joined(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: joined(each) for key, each in value.items()}
        if isinstance(value, list):
            return [joined(each) for each in value]
        return " ".join(value.split()) if isinstance(value, str) else value

    return f"{spec[1]}{joined(ast.literal_eval(spec[2]))!r}"


def work(runner: RankRunner) -> None:
    """Print the script."""
    print(script(" ".join(sys.argv[1:])), end="", flush=True)


if __name__ == "__main__":
    run_command(work)
