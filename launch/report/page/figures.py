"""What all figures of the page have in common. The script adds the colours of text and grid, by theme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

PALETTE = (
    "#4a8df0",
    "#ef8a3c",
    "#35ad7c",
    "#a274d8",
    "#d9a521",
    "#e2607f",
    "#45b3c4",
    "#8f9bab",
    "#9c7b52",
    "#7fae3f",
)
"""Of runs and of stages; each can be told from the others and read on white and on black."""


def colour(index: int) -> str:
    """Return the colour of a run or a stage."""
    return PALETTE[index % len(PALETTE)]


def figure(y: str, x: str, *, height: int = 320, **layout: Any) -> go.Figure:
    """Return an empty figure with these names of its axes."""
    made = go.Figure(layout={"template": "none", "height": height, "hovermode": "closest"})
    made.update_layout(
        margin={"l": 64, "r": 16, "t": 12, "b": 48},
        xaxis={"title": {"text": x}, "zeroline": False, "automargin": True, "exponentformat": "none"},
        yaxis={"title": {"text": y}, "zeroline": False, "automargin": True},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        font={"size": 12.5},
        separators=".,",
        **layout,
    )
    return made


def line(
    made: go.Figure,
    x: Sequence[float | None],
    y: Sequence[float | None],
    name: str,
    color: str,
    **more: Any,
) -> None:
    """Draw a line over the points that have both values; nothing where there are none."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if not points:
        return
    xs, ys = (np.array(values, np.float64) for values in zip(*points, strict=True))
    mode = more.pop("mode", "lines+markers" if len(points) == 1 else "lines")
    style = {"color": color, "width": more.pop("width", 2)} | more.pop("line", {})
    made.add_scatter(x=xs, y=ys.astype(np.float32), name=name, mode=mode, line=style, **more)
