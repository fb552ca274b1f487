"""Train a task over time in this process.

epoch:  windows ─ forward, backward with the SG at the end, update ─ ... ─ validation ─ copy the best weights
end:    the best weights ─ test ─ summary.json, metrics.jsonl, report.html, model/
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dni_async.early_stopping import Best, Patience
from dni_async.errors import UserError
from dni_async.networks.factory import parameters_of
from dni_async.parameter_groups import check_patterns
from dni_async.recurrent.auxiliary_task import Auxiliary
from dni_async.recurrent.bootstrap import dni_through_time, permuted
from dni_async.recurrent.through_time import MakePredictor, ThroughTime
from launch.config.recurrent import SequenceConfig
from launch.config.run_file import write_run_file
from launch.job.initial_weights import load_initial_weights
from launch.job.output_folder import check_unused, clear
from launch.job.run_lock import RunLock
from launch.job.stage_factory import build_updater
from launch.loggers.base import LoggedRun
from launch.loggers.fan_out import Loggers
from launch.recurrent.weights import save
from launch.report.files import JsonLines, jsonable, prepare_out, write_json
from launch.report.metadata import run_metadata
from launch.report.page.write import write_run_report
from tasks.base import seed_everything
from tasks.registry import create_any
from tasks.sequence.base import Sequences, SequenceTask, Window
from workers.failure.rank_runner import RankRunner
from workers.runtime.device import place


def run_sequences(runner: RankRunner, config: SequenceConfig) -> dict[str, Any]:
    """Train, and return the summary. Raises UserError for bad input and for a loss that is not finite."""
    task = create_any(config.task.name, config.task.task_args)
    if not isinstance(task, SequenceTask):
        raise UserError(f"{task.name} is not a task over time; train it with launch.train")
    out = prepare_out(config.output.out) if config.output.out else None
    with RunLock(out) if out else nullcontext():
        if out and not config.overwrite:
            check_unused(out)
        return _run(runner, config, task, out)


def _run(runner: RankRunner, config: SequenceConfig, task: SequenceTask, out: Path | None) -> dict[str, Any]:
    runner.folder = out
    sequences = task.sequences(config.task.data_folder(), config.task.batch_size, config.task.seed)
    placement = place(config.runtime.device, config.runtime.threads, 0, 1)
    interruption = runner.interruption
    trainer = Trainer(
        config, task, sequences, placement.device, should_stop=lambda: interruption.signum is not None
    )
    runner.describe_position = trainer.describe_position
    if out:
        clear(out, overwrite=config.overwrite)
        write_run_file(out, "train", config)
        interruption.begin_training()
    summary = run_metadata(task.name, config.rule, config.task.seed, config.as_json()) | {
        "bptt": config.bptt,
        "parameters": parameters_of(trainer.model),
        "symbols": len(sequences.symbols),
        "epochs": [],
    }
    about = LoggedRun(f"{task.name}, {config.rule}, seed {config.task.seed}", out, jsonable(config.as_json()))
    with closing(Loggers(config.logging.log, about)) as loggers:  # closed when the files are written
        with closing(JsonLines(out / "metrics.jsonl", append=False)) if out else nullcontext() as lines:
            for record in trainer.run():
                summary["epochs"].append(record)
                if not config.output.quiet:
                    print(line_of(record, config.task.epochs), flush=True)
                loggers.log(record["updates"], record)
                if lines:
                    lines.write(record)
        summary |= {"updates": trainer.updates, "samples_per_s": trainer.symbols / trainer.seconds}
        summary |= {"train_s": trainer.seconds, "final": trainer.final()}
        if trainer.cut_short:
            summary["interrupted"] = {"signal": interruption.name, "step": trainer.updates}
        if not config.output.quiet:
            print(f"{task.name}, {config.rule}, T = {config.bptt}: {_shown(summary['final'])}", flush=True)
        if out:
            save(out, trainer.model, config.task.name, config.task.task_args, sequences.symbols)
            if config.output.report:
                write_run_report(out, summary)
            write_json(out / "summary.json", summary)
            interruption.outcome = f"after update {trainer.updates}; summary.json and the model are in {out}"
            interruption.finished = not trainer.cut_short
        return summary


class Trainer:
    """Model, SG network and optimizer of a run, epoch after epoch.

    Args:
        should_stop: asked after each update whether training ends there.
    """

    def __init__(
        self,
        config: SequenceConfig,
        task: SequenceTask,
        sequences: Sequences,
        device: torch.device,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._should_stop = should_stop
        self.config, self.task, self.sequences, self.device = config, task, sequences, device
        seed_everything(config.task.seed)
        self.model = task.model(len(sequences.symbols)).to(device)
        if config.task.init:
            load_initial_weights(self.model, config.task.init)
        self.through = ThroughTime(
            self.model.core,
            _predictor(config),
            discount=config.discount,
            state_bound=config.state_bound,
            auxiliary=Auxiliary() if config.rule == "dni-aux" else None,
        )
        modules = [("", self.model)]
        check_patterns(modules, config.optimizer.group_settings())
        self.updater = build_updater(
            config.optimizer, modules, config.task.epochs * sequences.windows(config.bptt)
        )
        self.updates = self.symbols = 0
        self.seconds = 0.0
        self.cut_short = False
        """Whether training was asked to stop before its end."""
        self.best = Best(self.model, Patience(config.patience))

    def describe_position(self) -> str:
        """Return where training stands, for the line that reports a failure."""
        return f"at update {self.updates}"

    def run(self) -> Iterator[dict[str, Any]]:
        """Train, and yield a record per epoch."""
        for epoch in range(1, self.config.task.epochs + 1):
            record = self._epoch(epoch)
            self.cut_short = self._should_stop()
            if self.cut_short:
                yield record
                return
            cost = self._evaluate("validation")
            if cost is not None:
                record["validation"] = self.task.scores(cost)
                with self.updater.averaged():
                    self.best.judge(epoch, cost)
            yield record
            if self.best.patience.over:
                return

    def final(self) -> dict[str, Any]:
        """Load the best weights, and return their test scores and what a curriculum reached."""
        final = dict(self.sequences.progress())
        best = self.best.patience.loss
        self.updater.take_average()
        if best is not None:
            self.best.take_up()
            self.updater.restart_average()
            cost = self._evaluate("test")
            assert cost is not None
            final |= self.task.scores(cost) | {"validation": self.task.scores(best)}
        return final

    def _epoch(self, epoch: int) -> dict[str, Any]:
        self.model.train()
        self.through.reset()
        start, total, windows = time.perf_counter(), torch.zeros((), device=self.device), 0
        for window in self.sequences.training(self.config.bptt):
            window = window.to(self.device)
            total += self._train(window)
            windows += 1
            if windows % 100 == 0:
                self._check(total)
            if self._should_stop():
                break
        self._check(total)
        self.seconds += time.perf_counter() - start
        record = {"epoch": epoch, "updates": self.updates, "loss": float(total) / windows}
        record |= {"seconds": self.seconds} | self.through.stats() | self.sequences.progress()
        self.through.new_epoch()
        return record

    def _train(self, window: Window) -> Tensor:
        """Train on one window, with one update; return its loss."""
        out = self.model.head(self.through(self.model.encoder(window.x)))
        loss = self.task.loss(out, window)
        self.through.backward(loss, window.is_last)
        self.updater.step()
        self.sequences.trained(window, out.detach())
        self.updates += 1
        self.symbols += window.x.shape[0] * window.x.shape[1]
        return loss.detach()

    def _check(self, total: Tensor) -> None:
        if not math.isfinite(total):
            raise UserError(
                f"{self.describe_position()}: the loss is {float(total)}; lower --lr or --clip-norm"
            )

    @torch.no_grad()
    def _evaluate(self, split: str) -> float | None:
        """Return the mean cost over whole sequences; None when the task has no such split."""
        self.model.eval()
        state, total, count = None, 0.0, 0
        for window in self.sequences.evaluation(split):
            window = window.to(self.device)
            with self.updater.averaged():
                out, state = self.through.core(self.model.encoder(window.x), state)
                cost, counted = self.task.cost(self.model.head(out), window)
            total, count = total + cost, count + counted
            state = None if window.is_last else state
        return total / count if count else None


def _predictor(config: SequenceConfig) -> MakePredictor | None:
    if config.rule == "bptt":
        return None
    make = dni_through_time(config.sg, config.task.seed)
    return permuted(make, config.task.seed) if config.rule == "dni-permuted" else make


def line_of(record: dict[str, Any], epochs: int) -> str:
    """Return `epoch 1/5  updates 1,000  loss 0.2501  longest_solved_length 2  5.2 s`."""
    parts = [
        f"epoch {record['epoch']}/{epochs}",
        f"updates {record['updates']:,}",
        f"loss {record['loss']:.4f}",
    ]
    if "longest_solved_length" in record:
        parts.append(f"longest_solved_length {record['longest_solved_length']}")
    parts += [f"validation {_shown(record['validation'])}"] if "validation" in record else []
    return "  ".join([*parts, f"largest |state| {record['state_max']:.1f}", f"{record['seconds']:.1f} s"])


def _shown(scores: dict[str, Any]) -> str:
    numbers = {name: value for name, value in scores.items() if isinstance(value, (int, float))}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
