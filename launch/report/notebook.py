"""A table of the evaluations, and where training stands, below the cell of a notebook that trains."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from typing import Any

from launch.report.evaluation import metric_key, split_of
from launch.report.text import epochs, metric, number

Show = Callable[[str, Any], Any]
"""Shows HTML in place of what the handle stands for (None: below the rest); returns the handle."""


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def show_html(text: str, handle: Any) -> Any:
    """Show HTML by IPython: the `Show` of notebooks."""
    from IPython.display import HTML, display  # only notebooks have it

    if handle is None:
        return display(HTML(text), display_id=True)
    handle.update(HTML(text))
    return handle


class NotebookProgress:
    """Shows the records of a run as they come."""

    def __init__(self, task: str, epochs: int, metric_name: str, show: Show = show_html) -> None:
        self._task, self._epochs, self._metric_name = task, epochs, metric_name
        self._show, self._handle = show, None
        self._evaluations: list[dict[str, Any]] = []

    def show(self, record: dict[str, Any]) -> None:
        """Draw again with one more record of metrics.jsonl."""
        if record["kind"] != "report":
            self._evaluations.append(record)
        self._handle = self._show(self._html(record), self._handle)

    def _html(self, last: dict[str, Any]) -> str:
        split = split_of(self._evaluations)
        heads = ["epoch", "loss", f"{split} loss", f"{split} {self._metric_name}", "samples/s", "seconds"]
        rows = [self._cells(record, split) for record in self._evaluations]
        body = "".join(_row(cells, "td") for cells in [heads, *rows][1:])
        ended = last["kind"] == "epoch" and last["epoch"] >= self._epochs
        position = "" if ended else f", step {number(last['step'])}, {number(last['seconds'], 1)} s"
        title = f"{self._task}: epoch {epochs(last['epoch'])} of {self._epochs}{position}"
        return f"<p>{html.escape(title)}</p><table>{_row(heads, 'th')}{body}</table>"

    def _cells(self, record: dict[str, Any], split: str) -> list[str]:
        score = record.get(metric_key(split, self._metric_name))
        return [
            epochs(record["epoch"]),
            number(record.get("loss"), 4),
            number(record.get(f"{split}_loss"), 4),
            "-" if score is None else metric(score, self._metric_name, digits=2),
            number(record.get("samples_per_s")),
            number(record.get("seconds"), 1),
        ]


def _row(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
