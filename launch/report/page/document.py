"""Puts the page together: tables as HTML, figures as JSON that the script draws once they come into view."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from launch.config.run_file import version
from launch.config.train import TrainConfig
from launch.report.grid import Grid
from launch.report.page.assets import SCRIPT, STYLE
from launch.report.page.commands import commands_of_run
from launch.report.page.curves import TITLES, loss_figure, metric_figure
from launch.report.page.recorded_run import RecordedRun
from launch.report.page.records import metric_of
from launch.report.page.stages import has_stages, stage_figures
from launch.report.page.tables import columns_explained, settings_table, table
from launch.report.page.timeline_figure import MOST_EVENTS, excerpt, queue_figure, timeline_figure
from launch.report.run_table import run_grid

EVENTS_OF_PAGE = 10 * MOST_EVENTS
"""Events in the timelines of all runs of a page."""
ZOOM = (
    '<div class="buttons">timeline '
    '<button data-zoom="0.5">zoom in</button><button data-zoom="2">zoom out</button>'
    '<button data-move="-0.5">earlier</button><button data-move="0.5">later</button>'
    '<button data-zoom="all">all</button></div>'
)
"""Buttons for the figures of a section that share the time axis of the timeline."""


@dataclass(slots=True)
class Page:
    """A page under construction."""

    title: str
    about: str = ""
    parts: list[str] = field(default_factory=list)
    """Of HTML."""
    _count: int = 0

    def add(self, *parts: str) -> None:
        """Append some HTML."""
        self.parts += parts

    def figure(self, made: go.Figure, caption: str, explanation: str = "", kind: str = "") -> str:
        """Return the place of a figure, which the script fills from the data beside it."""
        self._count += 1
        data = made.to_json(validate=False).replace("</", "<\\/")
        note = f" <small>{html.escape(explanation)}</small>" if explanation else ""
        height = made.layout.height
        box = f'<div data-figure="{self._count}" style="height:{height}px"></div>'
        box += f'<script type="application/json">{data}</script>'
        return f'<figure class="{kind}"><figcaption>{html.escape(caption)}{note}</figcaption>{box}</figure>'

    def html(self) -> str:
        """Return the whole page."""
        return "\n".join(
            [
                '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{html.escape(self.title)}</title><style>{STYLE}</style></head><body>",
                f"<h1>{html.escape(self.title)}</h1>",
                f'<p class="about">{html.escape(self.about)}</p>',
                "<noscript><p>The figures of this page need JavaScript.</p></noscript>",
                *self.parts,
                f"<script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>",
            ]
        )


def make_page(
    runs: Sequence[RecordedRun], title: str, grids: Sequence[Grid] = (), commands: Sequence[str] = ()
) -> str:
    """Return the page over these runs.

    Args:
        grids: tables that come first.
        commands: that repeat everything on the page; without, those of a single run.
    """
    page = Page(title, _about(runs))
    page.add("<h2>Results</h2>", *map(table, grids), columns_explained([*grids, *_run_grids(runs)]))
    page.add("<h2>Learning</h2>", _curves(page, runs))
    if any(has_stages(run) for run in runs):
        first = max(range(len(runs)), key=lambda i: _richness(runs[i]))
        page.add("<h2>Stages</h2>", _chooser(runs, first))
        page.add(*(_details(page, run, i, len(runs), shown=i == first) for i, run in enumerate(runs)))
    page.add("<h2>Settings</h2>", *(_settings(run, len(runs)) for run in runs))
    page.add("<h2>Commands that repeat it</h2>")
    page.add(*(_command(command) for command in commands or commands_of_run(runs[0])))
    page.add(f'<p class="about">Written by dni_async {version()}.</p>')
    return page.html()


def _richness(run: RecordedRun) -> tuple[int, int]:
    """Return what orders runs by how much there is to see of their stages."""
    stages = run.summary.get("stages", ())
    return len(stages), sum(bool(stage.get("targets_received")) for stage in stages)


def _about(runs: Sequence[RecordedRun]) -> str:
    summary = runs[0].summary
    machine, versions = summary.get("hardware", {}), summary.get("versions", {})
    parts = [str(machine.get("cpu", "")), *machine.get("gpus", ())]
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [f"torch {versions['torch']}"] if versions.get("torch") else []
    return ", ".join(part for part in parts if part)


def _run_grids(runs: Sequence[RecordedRun]) -> list[Grid]:
    return [run_grid(run.summary) for run in runs if run.summary.get("stages")]


def _curves(page: Page, runs: Sequence[RecordedRun]) -> str:
    """Return metric and loss over each axis that is known; buttons choose which of them is shown."""
    names = dict.fromkeys(metric_of(run)[1] for run in runs)
    buttons, panels, state = [], [], ('aria-pressed="true"', "")
    for axis, name in TITLES.items():
        metrics, loss = {m: metric_figure(runs, axis, m) for m in names}, loss_figure(runs, axis)
        if not loss.data and not any(metric.data for metric in metrics.values()):
            continue
        pressed, hidden = state
        both = "".join(page.figure(metric, m, "at evaluations") for m, metric in metrics.items())
        both += page.figure(loss, "loss", "solid: training, dotted: evaluations")
        buttons.append(f'<button data-choose="axis" data-value="{axis}" {pressed}>{name}</button>')
        panels.append(f'<div class="figures" data-group="axis" data-value="{axis}"{hidden}>{both}</div>')
        state = 'aria-pressed="false"', " hidden"
    return f'<div class="buttons">over {"".join(buttons)}</div>' + "".join(panels)


def _chooser(runs: Sequence[RecordedRun], first: int) -> str:
    if len(runs) == 1:
        return ""
    options = "".join(
        f'<option value="{i}"{" selected" if i == first else ""}>{html.escape(run.name)}</option>'
        for i, run in enumerate(runs)
    )
    return f'<div class="buttons"><label>run <select data-choose="run">{options}</select></label></div>'


def _details(page: Page, run: RecordedRun, number: int, count: int, *, shown: bool) -> str:
    """Return timeline, queues and stages of one run."""
    parts = [table(run_grid(run.summary))] if run.summary.get("stages") and count > 1 else []
    if any(row["events"] for row in run.timeline):
        drawn = excerpt(run.timeline, min(MOST_EVENTS, EVENTS_OF_PAGE // count))
        seconds = (drawn.part[1] - drawn.part[0]) / 1e6
        explanation = f"what every stage did in {seconds:.2f} s of the run; drag over a part to zoom"
        broad = page.figure(timeline_figure(drawn), "timeline", explanation, "broad")
        if queues := queue_figure(drawn):
            broad += page.figure(queues, "queues", "messages sent and not yet taken up, by link", "broad")
        parts.append(f'{ZOOM}<div class="figures">{broad}</div>')
    small = [page.figure(made, q.title, q.explanation) for q, made in stage_figures(run)]
    parts.append(f'<div class="figures small">{"".join(small)}</div>' if small else "")
    hidden = "" if shown else " hidden"
    return f'<section data-group="run" data-value="{number}"{hidden}>{"".join(parts)}</section>'


def _settings(run: RecordedRun, count: int) -> str:
    name = f"{run.name}: " if count > 1 else ""
    shown = settings_table(run.summary.get("settings", {}), TrainConfig().as_json())
    about = json.dumps({key: run.summary.get(key) for key in ("versions", "hardware")}, indent=1)
    command = "".join(map(_command, commands_of_run(run))) if count > 1 else ""
    head = f"<summary>{html.escape(name)}all settings; those that are not the default are marked</summary>"
    return f"<details>{head}{shown}{command}<pre>{html.escape(about)}</pre></details>"


def _command(command: str) -> str:
    return f"<pre>{html.escape(command)}</pre>"
