"""Elements of an SVG whose attributes change over time, again and again."""

from __future__ import annotations

from collections.abc import Sequence

Change = tuple[float, str]
"""A share of the clip (0 to 1), and the value from then on."""


def discrete(attribute: str, first: str, changes: Sequence[Change], seconds: float) -> str:
    """Return an animation that sets an attribute at once at each of these times."""
    times, values = [0.0], [first]
    for share, value in changes:
        if share <= times[-1]:
            values[-1] = value
        elif value != values[-1]:
            times.append(share)
            values.append(value)
    return _animate("animate", f'attributeName="{attribute}" calcMode="discrete"', times, values, seconds)


def motion(points: Sequence[tuple[float, float, float]], seconds: float) -> str:
    """Return an animation that moves an element from point to point, given as (share, x, y) in order.

    Before the first and after the last of them it stays there.
    """
    times, values = [0.0], [_place(*points[0][1:])]
    for share, x, y in points:
        if share > times[-1]:
            times.append(share)
            values.append(_place(x, y))
        else:
            values[-1] = _place(x, y)
    if times[-1] < 1:
        times.append(1.0)
        values.append(values[-1])
    head = 'attributeName="transform" type="translate"'
    return _animate("animateTransform", head, times, values, seconds)


def visible(start: float, end: float, seconds: float) -> str:
    """Return an animation that shows an element from one share of the clip to another."""
    changes = [(max(start, 0.0), "1")] + ([(end, "0")] if end < 1 else [])
    return discrete("opacity", "0", changes, seconds)


def _animate(tag: str, head: str, times: Sequence[float], values: Sequence[str], seconds: float) -> str:
    keys = ";".join(f"{time:.4f}".rstrip("0").rstrip(".") for time in times)
    shown = ";".join(values)
    timing = f'dur="{seconds:g}s" repeatCount="indefinite"'
    return f'<{tag} {head} {timing} keyTimes="{keys}" values="{shown}"/>'


def _place(x: float, y: float) -> str:
    return f"{x:.0f} {y:.0f}"
