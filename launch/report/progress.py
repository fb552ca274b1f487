"""What rank 0 shows while training: a live table on a terminal, one line per epoch elsewhere.

epoch 1/5  loss 0.2501  test accuracy 97.12 %  12,345 samples/s  5.2 s
epoch 2/5  step 120/469  12,401 samples/s                          <- only on a terminal, rewritten
stage  step  utilisation  staleness    loss
──────────────────────────────────────────
0       120         97 %        1.0
1       119         95 %                0.1834
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from launch.report.evaluation import metric_key, split_of
from launch.report.grid import make_console, plain_table
from launch.report.text import epochs, metric, number, percent


class Progress:
    """Shows a run while it trains. It draws only when it is called: no thread, no clock.

    `tag` is a word in front of every line, such as "emulated".
    """

    def __init__(
        self,
        console: Console | None = None,
        quiet: bool = False,
        metric_name: str = "accuracy",
        tag: str = "",
    ) -> None:
        self._console = console or make_console()
        self._quiet = quiet
        self._metric_name = metric_name
        self._tag = [tag] if tag else []
        self._live: Live | None = None
        self._epochs = 0
        self._epoch = 1
        self._samples_per_s: float | None = None
        self._stages: list[Mapping[str, Any]] = []

    def start(self, total_epochs: int, stages: int, epoch: int = 1) -> None:
        """Begin to draw, at `epoch` (later than 1 in a resumed run)."""
        self._epochs, self._epoch = total_epochs, epoch
        self._stages = [{} for _ in range(stages)]
        if self._console.is_interactive and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
            self._draw("")

    def update(
        self, step: int, total_steps: int, samples_per_s: float | None, stages: Sequence[Mapping[str, Any]]
    ) -> None:
        """Show `step` of `total_steps` in this epoch, and a row per stage.

        Args:
            stages: each with `step`, `utilisation` (0..1), `staleness` and, where known, `loss`.
        """
        self._samples_per_s, self._stages = samples_per_s, list(stages)
        self._draw(f"step {number(step)}/{number(total_steps)}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Print the line of an evaluation; `record` is that of the summary."""
        line = epoch_line(record, self._epochs, self._samples_per_s, self._metric_name)
        self._epoch = int(record["epoch"]) + 1
        if not self._quiet:
            self._console.print(Text("  ".join([*self._tag, line])), soft_wrap=True)
        if self._epoch <= self._epochs:
            self._draw("")

    def close(self) -> None:
        """Remove the live table; a second call does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, position: str) -> None:
        if self._live is None:
            return
        speed = "" if self._samples_per_s is None else f"{number(self._samples_per_s)} samples/s"
        parts = [*self._tag, f"epoch {self._epoch}/{self._epochs}", position, speed]
        self._live.update(_picture("  ".join(part for part in parts if part), self._stages), refresh=True)


def epoch_line(
    record: Mapping[str, Any],
    total_epochs: int,
    samples_per_s: float | None = None,
    metric_name: str = "accuracy",
) -> str:
    """Return `epoch 1/5  loss 0.2501  test accuracy 97.12 %  12,345 samples/s  5.2 s`, as far as known."""
    split = split_of([record])
    score, speed = record.get(metric_key(split, metric_name)), record.get("samples_per_s", samples_per_s)
    parts = [f"epoch {epochs(record['epoch'])}/{total_epochs}"]
    if record.get("loss") is not None:
        parts.append(f"loss {number(record['loss'], 4)}")
    if score is not None:
        parts.append(f"{split} {metric_name} {metric(score, metric_name, digits=2)}")
    if speed is not None:
        parts.append(f"{number(speed)} samples/s")
    if record.get("seconds") is not None:
        parts.append(f"{number(record['seconds'], 1)} s")
    return "  ".join(parts)


def _picture(headline: str, stages: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = plain_table()
    table.add_column("stage")
    for head, least in (("step", 7), ("utilisation", 11), ("staleness", 9), ("loss", 7)):
        table.add_column(head, justify="right", min_width=least)
    for index, stage in enumerate(stages):
        cells = [
            str(index),
            number(stage.get("step")),
            percent(stage.get("utilisation")),
            number(stage.get("staleness"), 1),
            number(stage.get("loss"), 4),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    return Group(Text(headline, style="bold"), table)
