"""The table of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from launch.planning.predict import Prediction
from launch.planning.profile import Profile
from launch.report.comparison_table import speedup
from launch.report.tables import NOTHING, Column, Grid, number, percent


def plan_grid(predictions: Sequence[Prediction], profile: Profile) -> Grid:
    """One row per number of stages and engine; below, what the numbers leave out and why some are missing."""

    def column(head: str, text: Callable[[Prediction], str], **kind: bool) -> Column:
        cells = [NOTHING if p.error else text(p) for p in predictions]
        return Column(head=head, cells=cells, **kind)

    columns = [
        Column(head="stages", cells=[number(p.stages) for p in predictions]),
        Column(head="engine", cells=[p.engine for p in predictions], left=True),
        column("samples/s", lambda p: number(p.samples_per_s)),
        column("speed-up", lambda p: speedup(p.speedup)),
        column("bubble", lambda p: percent(p.bubble)),
        column("memory of\nworst stage, MB", lambda p: number((p.memory_bytes or 0) / 1e6, 1)),
        column("staleness\nof stage 0", lambda p: number(p.staleness, 1)),
        column("micro-\nbatches", lambda p: number(p.micro_batches), spare=True),
    ]
    return Grid(title=plan_title(profile), columns=columns, notes=_notes(predictions, profile))


def plan_title(profile: Profile) -> str:
    """`mnist-fcn, 1,027 layers (7, the middle ones repeated), batch 256: predicted`."""
    count = f"{number(len(profile.layers))} layers"
    if profile.repeated:
        count += f" ({profile.repeated}, the middle ones repeated)"
    parts = [str(profile.settings["task"]), count, f"batch {number(profile.batch_size)}"]
    if profile.emulated:
        parts.append(f"emulated devices of {profile.settings['emulate_gflops']:g} GFLOP/s")
    return ", ".join(parts) + ": predicted"


def _notes(predictions: Sequence[Prediction], profile: Profile) -> list[str]:
    notes = [
        "predicted from costs measured on this machine, as if every stage had a device of its own like it; "
        "speed-up over backprop on one of them",
        "bubble: share of time in which the average stage waits; memory: weights, gradients, optimizer, "
        "activations and messages, without the process itself",
    ]
    failed: dict[str, list[Prediction]] = {}
    for p in predictions:
        if p.error:
            failed.setdefault(p.engine, []).append(p)
    for engine, many in failed.items():  # too many stages for one number are too many for all above it
        more = " and more" if len(many) > 1 else ""
        notes.append(f"{engine}, {many[0].stages} stages{more}: {many[0].error}")
    return notes
