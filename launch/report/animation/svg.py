"""The animated picture: each run in a panel of its own, all in slow motion and for the same time.

```
cdni   [stage 0] ▪ ▪ [stage 1] ▪ [stage 2]      ▪ activations go right, • gradients go left
       ▬▬▬▬▬▬▬▬▬▬▬▬▬|▬▬▬▬▬▬▬▬▬▬                 what the stages do, with a line at the present
```
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from launch.report.animation.scene import Message, Scene
from launch.report.animation.smil import discrete, motion, visible
from launch.report.timeline_kinds import KINDS

WIDTH, LEFT, RIGHT = 960, 24, 24
BOX, BOX_HEIGHT, LANE = 118, 66, 13
"""Width and height of a stage, and height of its row of bars, in pixels."""
HEAD = 40
TRAVEL = 0.035
"""Share of the clip that a message moves; then it waits at the door until it is taken up."""
SIZE = 15
"""Side of a message."""

STYLE = """
text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2733; }
.paper { fill: #ffffff; } .idle { fill: #e9edf2; } .frame { stroke: #9aa6b4; fill: none; }
.faint { fill: #5d6875; } .number { fill: #ffffff; font-weight: 700; font-size: 9.5px; }
.now { stroke: #1f2733; }
@media (prefers-color-scheme: dark) {
  text { fill: #e3e8ee; } .paper { fill: #12161c; } .idle { fill: #242c36; } .faint { fill: #9aa6b4; }
  .now { stroke: #e3e8ee; } }
"""
GRADIENT = "#d1495b"


@dataclass(frozen=True, slots=True)
class Clip:
    """One run of the picture."""

    title: str
    explanation: str
    scene: Scene


def animate(clips: Sequence[Clip], footnote: str, seconds: float = 16.0) -> str:
    """Return the SVG, which plays in `seconds` and begins again. All scenes are equally long."""
    body, top = [], 12
    for clip in clips:
        body.append(f'<g transform="translate(0 {top})">{_panel(clip, seconds)}</g>')
        top += _panel_height(clip)
    body.append(_legend(top + 8))
    faint = f'class="faint" x="{LEFT}" y="{top + 38}" font-size="11.5"'
    body.append(f"<text {faint}>{html.escape(footnote)}</text>")
    height = top + 50
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">'
    paper = f'<rect class="paper" width="{WIDTH}" height="{height}"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", paper, *body, "</svg>\n"])


def _panel_height(clip: Clip) -> int:
    return HEAD + BOX_HEIGHT + 30 + LANE * len(clip.scene.work) + 26


def _panel(clip: Clip, seconds: float) -> str:
    scene = clip.scene
    shares = _Shares(scene)
    title = f'<text x="{LEFT}" y="14" font-size="15" font-weight="700">{html.escape(clip.title)}</text>'
    below = f'<text class="faint" x="{LEFT}" y="31" font-size="12">{html.escape(clip.explanation)}</text>'
    parts = [title, below]
    for stage in range(len(scene.work)):
        parts.append(_stage(scene, stage, shares, seconds))
    parts += [_message(message, len(scene.work), shares, seconds) for message in scene.messages]
    parts.append(_bars(scene, shares, seconds))
    return "\n".join(parts)


class _Shares:
    """Turns times into shares of the clip."""

    def __init__(self, scene: Scene) -> None:
        self._start, end = scene.window
        self._length = end - self._start

    def __call__(self, time: float) -> float:
        return (time - self._start) / self._length


def _x(stage: int, stages: int) -> float:
    """Return the left edge of a stage."""
    room = WIDTH - LEFT - RIGHT - BOX
    return LEFT + room * stage / max(stages - 1, 1)


def _stage(scene: Scene, stage: int, shares: _Shares, seconds: float) -> str:
    """Return a stage: a box in the colour of what it does, with the number of its updates."""
    x, y = _x(stage, len(scene.work)), HEAD
    changes = []
    for work in scene.work[stage]:
        changes += [(shares(work.start), KINDS[work.kind][1]), (shares(work.end), "transparent")]
    box = f'x="{x:.0f}" y="{y}" width="{BOX}" height="{BOX_HEIGHT}" rx="8"'
    colour = discrete("fill", "transparent", changes, seconds)
    middle = f'x="{x + BOX / 2:.0f}" text-anchor="middle"'
    parts = [
        f'<rect class="idle" {box}/><rect {box} fill="transparent">{colour}</rect>',
        f'<rect class="frame" {box}/>',
        f'<text {middle} y="{y + 27}" font-weight="700">stage {stage}</text>',
    ]
    times = [0.0, *map(shares, scene.updates[stage]), 1.0]
    for count, (start, end) in enumerate(pairwise(times)):
        text, shown = f"{count} update{'s' if count != 1 else ''}", visible(start, end, seconds)
        parts.append(f'<text {middle} y="{y + 48}" font-size="13" opacity="0">{text}{shown}</text>')
    for time in times[1:-1]:  # a green frame that is there for a moment
        flash = visible(time, min(time + 0.012, 1.0), seconds)
        frame = f'{box} fill="none" stroke="{KINDS["update"][1]}" stroke-width="6" opacity="0"'
        parts.append(f"<rect {frame}>{flash}</rect>")
    return "".join(parts)


def _message(message: Message, stages: int, shares: _Shares, seconds: float) -> str:
    """Return a box with the number of its batch that travels, waits at the door, and goes in."""
    down = message.goes_down
    left, right = sorted((message.source, message.target))
    near, far = _x(left, stages) + BOX + 4, _x(right, stages) - SIZE - 4
    begin, arrive = (near, far) if down else (far, near)
    y = HEAD + (8 if down else BOX_HEIGHT - SIZE - 8) + (message.step % 3 - 1) * 5
    sent, used = shares(message.sent), shares(message.used)
    moves = motion([(max(sent, 0.0), begin, y), (max(sent + TRAVEL, 0.0), arrive, y)], seconds)
    shown = visible(sent, max(used, sent + TRAVEL), seconds)
    colour, rx = (KINDS["forward"][1], 3) if down else (GRADIENT, SIZE // 2)
    label = f'<text class="number" x="{SIZE / 2}" y="11" text-anchor="middle">{message.step % 100}</text>'
    box = f'<rect width="{SIZE}" height="{SIZE}" rx="{rx}" fill="{colour}"/>'
    return f'<g opacity="0">{shown}{moves}{box}{label}</g>'


def _bars(scene: Scene, shares: _Shares, seconds: float) -> str:
    """Return the recorded timeline with a line that moves over it."""
    top, width = HEAD + BOX_HEIGHT + 16, WIDTH - LEFT - RIGHT
    height = LANE * len(scene.work)
    parts = []
    for stage, row in enumerate(scene.work):
        y = top + LANE * stage
        parts.append(f'<rect class="idle" x="{LEFT}" y="{y}" width="{width}" height="{LANE - 3}"/>')
        for work in row:
            x, w = LEFT + width * shares(work.start), width * (shares(work.end) - shares(work.start))
            bar = f'x="{x:.1f}" y="{y}" width="{max(w, 0.6):.1f}" height="{LANE - 3}"'
            parts.append(f'<rect {bar} fill="{KINDS[work.kind][1]}"/>')
    line = f'<line class="now" x1="0" x2="0" y1="{top - 4}" y2="{top + height + 1}" stroke-width="2">'
    moves = motion([(0.0, LEFT, 0), (1.0, LEFT + width, 0)], seconds)
    return "".join([*parts, line, moves, "</line>"])


def _legend(y: int) -> str:
    entries = [(KINDS[kind][1], KINDS[kind][0]) for kind in ("forward", "backward", "sg")]
    entries += [(KINDS["update"][1], "green frame: update")]
    parts, x = [], LEFT
    for colour, name in entries:
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 17}" y="{y + 10}" font-size="12">{name}</text>')
        x += 40 + 7 * len(name)
    for shape, name in ((3, "activation of a batch"), (7, "gradient on its way back")):
        colour = KINDS["forward"][1] if shape == 3 else GRADIENT
        parts.append(f'<rect x="{x}" y="{y - 1}" width="14" height="14" rx="{shape}" fill="{colour}"/>')
        parts.append(f'<text class="number" x="{x + 7}" y="{y + 9.5}" text-anchor="middle">7</text>')
        parts.append(f'<text x="{x + 19}" y="{y + 10}" font-size="12">{name}</text>')
        x += 42 + 7 * len(name)
    return "".join(parts)
