"""One row per engine from its runs: medians, spread, and what every run said.

runs    backprop [summary, summary, summary]        a summary as in summary.json,
        cdni     [summary, {"error": ...}]          or why there is none
rows    medians and [min, max] over the runs; the reason where one failed
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from launch.report.validation import split_of

Run = dict[str, Any]
"""A summary, or {"error": reason, "status": exit status, "stages": how many}."""
Row = dict[str, Any]


def make_rows(runs: Mapping[str, Sequence[Run]]) -> list[Row]:
    """One row per engine, in their order; speed-up is over the median of `backprop`."""
    rows = [make_row(engine, many) for engine, many in runs.items()]
    base = next((row.get("samples_per_s") for row in rows if row["engine"] == "backprop"), None)
    for row in rows:
        speed, spread = row.get("samples_per_s"), row.get("samples_per_s_spread")
        row["speedup"] = speed / base if base and speed else None
        row["speedup_spread"] = [value / base for value in spread] if base and spread else None
    return rows


def make_row(engine: str, runs: Sequence[Run]) -> Row:
    """Medians over the runs of one engine, or the reason why one failed."""
    failed = next((run for run in runs if "error" in run), None)
    if failed:
        return {"engine": engine, "stages": failed["stages"], "error": failed["error"]}
    told = [_told(run) for run in runs]
    stages = range(len(runs[0]["stages"]))

    def per_stage(key: str) -> list[list[Any]]:
        return [[run["stages"][i][key] for run in told] for i in stages]

    return {
        "engine": engine,
        "stages": len(stages),
        "micro_batches": sorted({run["micro_batches"] for run in told if run["micro_batches"]}),
        "utilisation": [median(values) for values in per_stage("utilisation")],
        **_medians(told, "samples_per_s", "test_accuracy", "best_epoch", "train_s"),
        "until": _until([run["until"] for run in told]),
        "peak_rss_bytes": [_most(values) for values in per_stage("peak_rss_bytes")],
        "held_bytes": [_most(values) for values in per_stage("held_bytes")],
        "notes": list(dict.fromkeys(note for run in runs for note in run["notes"])),
        "runs": told,
    }


def _told(run: Run) -> dict[str, Any]:
    """What the comparison keeps of one run."""
    split, stopping = split_of(run["evaluations"]), run.get("early_stopping") or {}
    curve = ("epoch", "step", "seconds", f"{split}_accuracy", f"{split}_loss")
    return {
        "seed": run["seed"],
        "samples_per_s": run["samples_per_s"],
        "train_s": run["train_s"],
        "test_accuracy": run["final"]["test_accuracy"],
        "test_loss": run["final"]["test_loss"],
        "best_epoch": (stopping.get("best") or {}).get("epoch"),
        "until": run["until"],
        "micro_batches": run.get("micro_batches"),
        "evaluations": [{key: record.get(key) for key in curve} for record in run["evaluations"]],
        "stages": [
            {
                "utilisation": stage["utilisation"],
                "peak_rss_bytes": stage["peak_rss_bytes"],
                "held_bytes": held_bytes(stage),
            }
            for stage in run["stages"]
        ],
    }


def held_bytes(stage: Mapping[str, Any]) -> int | None:
    """The most bytes that a stage held for other batches: in slots of its transport, and in its pending,
    replay window or stash. None where the engine does not say."""
    known = [stage[key] for key in ("slots_bytes", "held_bytes") if stage.get(key) is not None]
    return sum(known) if known else None


def median(values: Sequence[float | None]) -> float | None:
    """Of the values that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _medians(told: Sequence[Mapping[str, Any]], *keys: str) -> dict[str, Any]:
    """Median and [min, max] of each key."""
    found: dict[str, Any] = {}
    for key in keys:
        known = [run[key] for run in told if run[key] is not None]
        found |= {key: median(known), f"{key}_spread": [min(known), max(known)] if known else None}
    return found


def _most(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _until(runs: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Median seconds and epochs to the accuracy; a run that did not reach it counts as longer than any."""
    asked = [run for run in runs if run is not None]
    if not asked:
        return None
    found = {"accuracy": asked[0]["accuracy"], "runs": len(asked)}
    found["reached"] = sum(run["reached"] for run in asked)
    for key in ("seconds", "seconds_without_evaluations", "epochs", "steps"):
        middle = statistics.median(math.inf if run[key] is None else run[key] for run in asked)
        found[key] = middle if math.isfinite(middle) else None
    return found
