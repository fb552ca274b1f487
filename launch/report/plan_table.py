"""The tables of a plan: what was predicted, and how far the checks were off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from launch.local.wan import Wire
from launch.planning.check import Check
from launch.planning.predict import Prediction
from launch.planning.profile import Profile
from launch.report.grid import Column, Grid, column
from launch.report.text import NOTHING, megabytes, number, percent, times


def plan_grid(predictions: Sequence[Prediction], profile: Profile, wire: Wire | None = None) -> Grid:
    """Return one row per number of stages and engine; below, what the numbers leave out, and failures."""

    def predicted(head: str, text: Callable[[Prediction], str], **kind: bool) -> Column:
        return column(head, predictions, lambda p: NOTHING if p.error else text(p), **kind)

    columns = [
        column("stages", predictions, lambda p: number(p.stages)),
        column("engine", predictions, lambda p: p.engine, left=True),
        predicted("samples/s", lambda p: number(p.samples_per_s)),
        predicted("speed-up", lambda p: times(p.speedup)),
        predicted("bubble", lambda p: percent(p.bubble)),
        predicted("memory of\nworst stage, MB", lambda p: megabytes(p.memory_bytes or 0, 1)),
        predicted("staleness\nof stage 0", lambda p: number(p.staleness, 1)),
        predicted("micro-\nbatches", lambda p: number(p.micro_batches), spare=True),
    ]
    return Grid(title=plan_title(profile, wire), columns=columns, notes=_notes(predictions, profile))


def plan_title(profile: Profile, wire: Wire | None = None) -> str:
    """Return `mnist-fcn, 1,027 layers (7, the middle ones repeated), batch 256: predicted`, and how far apart
    the hosts are."""
    count = f"{number(len(profile.layers))} layers"
    if profile.repeated:
        count += f" ({profile.repeated}, the middle ones repeated)"
    parts = [str(profile.settings["task"]), count, f"batch {number(profile.batch_size)}"]
    if profile.emulated:
        parts.append(f"emulated devices of {profile.settings['emulate_gflops']:g} GFLOP/s")
    if wire:
        parts.append(str(wire).removeprefix("emulated "))
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
    for engine, many in failed.items():  # a number of stages that is too large rules out all larger ones
        more = " and more" if len(many) > 1 else ""
        notes.append(f"{engine}, {many[0].stages} stages{more}: {many[0].error}")
    return notes


def check_grid(checks: Sequence[Check]) -> Grid:
    """Return one row per run: predicted and measured samples/s, and the error of the prediction."""
    columns = [
        column("stages", checks, lambda c: number(c.stages)),
        column("engine", checks, lambda c: c.engine, left=True),
        column("devices", checks, lambda c: "emulated" if c.emulated else "real", left=True),
        column("predicted\nsamples/s", checks, lambda c: number(c.predicted)),
        column("measured\nsamples/s", checks, lambda c: number(c.measured)),
        column("error %", checks, lambda c: NOTHING if c.error is None else f"{100 * c.error:+.1f}"),
    ]
    notes = [f"{c.engine}, {c.stages} stages: {c.reason}" for c in checks if c.reason]
    return Grid(title="Predicted and measured", columns=columns, notes=notes)
