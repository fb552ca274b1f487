"""The zoomable timeline of all stages, and the messages that were on their way meanwhile."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from launch.report.messages import ACTIVATION, Transfer, transfers
from launch.report.page.figures import colour, figure, line
from launch.report.timeline import Interval, Span, Timeline, spans, steady_window
from launch.report.timeline_kinds import KINDS

MOST_EVENTS = 6000
"""Events of a run that are drawn, around the middle of its steady part."""


class Excerpt(NamedTuple):
    """The part of a timeline that is drawn."""

    timeline: Timeline
    part: Interval
    """Its start and end, in us."""
    steady: Interval
    """The steps that are shown at first."""

    def view(self) -> list[float]:
        """Return the steady steps in milliseconds since the beginning of the part."""
        return [(time - self.part[0]) / 1000 for time in self.steady]


def excerpt(timeline: Timeline, most: int = MOST_EVENTS) -> Excerpt:
    """Return the part around the steady window that has about `most` events at most; of a short run, all.

    Args:
        timeline: with an event at least.
    """
    rows = sorted(timeline, key=lambda row: int(row["stage"]))
    starts = sorted(float(event[1]) for row in rows for event in row["events"])
    window = steady_window(rows)
    middle = bisect_left(starts, sum(window) / 2)
    first = max(0, min(middle - most // 2, len(starts) - most))
    low, high = starts[first], starts[min(first + most, len(starts)) - 1]
    kept = [row | {"events": [e for e in row["events"] if low <= e[1] <= high]} for row in map(dict, rows)]
    end = max(float(event[1]) + float(event[2]) for row in kept for event in row["events"])
    return Excerpt(kept, (low, end), window)


def timeline_figure(shown: Excerpt) -> go.Figure:
    """Return a row of bars per stage; the view begins with some steady steps and can be zoomed out.

    Times are milliseconds since the beginning of the part.
    """
    rows = [spans(row) for row in shown.timeline]
    made = figure("", "milliseconds", height=130 + 54 * len(rows))
    for kind, (name, paint) in KINDS.items():
        found = [(i, span) for i, row in enumerate(rows) for span in row if span.name == kind]
        if found and kind != "wait":
            made.add_scatter(
                **_bars(found, shown.part),
                name=name,
                mode="lines",
                line={"color": paint, "width": 26},
                hovertemplate="step %{customdata}, at %{x:.2f} ms",
            )
    made.update_xaxes(range=shown.view(), showgrid=False)
    names = [f"stage {row['stage']}" for row in shown.timeline]
    ticks = {"tickmode": "array", "tickvals": list(range(len(rows))), "ticktext": names}
    made.update_yaxes(range=[len(rows) - 0.5, -0.5], fixedrange=True, showgrid=False, **ticks)
    return made.update_layout(showlegend=True)


def _bars(found: Sequence[tuple[int, Span]], part: Interval) -> dict[str, np.ndarray]:
    """Return the coordinates of one broken line, with a piece per event."""
    ends = np.array([(span.start, span.end, np.nan) for _, span in found])
    lanes = np.repeat(np.array([lane for lane, _ in found], np.int16), 3)
    steps = np.repeat(np.array([span.step for _, span in found], np.int32), 3)
    return {"x": ((ends - part[0]) / 1000).ravel(), "y": lanes, "customdata": steps}


def queue_figure(shown: Excerpt) -> go.Figure | None:
    """Return how many messages of each link were sent and not yet taken up; None without messages."""
    by_link: dict[tuple[int, int, str], list[Transfer]] = {}
    for message in transfers(shown.timeline):
        by_link.setdefault((message.source, message.target, message.kind), []).append(message)
    made = figure("messages waiting", "milliseconds", height=260)
    for number, ((source, target, kind), messages) in enumerate(sorted(by_link.items())):
        changes = sorted([(m.sent, 1) for m in messages] + [(m.used, -1) for m in messages])
        times = [(time - shown.part[0]) / 1000 for time, _ in changes]
        lengths = np.cumsum([change for _, change in changes]).tolist()
        name = f"{'activations' if kind == ACTIVATION else 'targets'} {source} → {target}"
        line(made, times, lengths, name, colour(number), line={"shape": "hv"}, width=1.6)
    if not made.data:
        return None
    made.update_xaxes(range=shown.view())
    made.update_yaxes(rangemode="tozero", fixedrange=True)
    return made.update_layout(showlegend=True)
