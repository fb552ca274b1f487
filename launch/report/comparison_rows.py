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

from launch.report.evaluation import metric_key, split_of

Run = dict[str, Any]
"""A summary, or {"error": reason, "status": exit status, "stages": how many}."""
Row = dict[str, Any]


def make_rows(runs: Mapping[str, Sequence[Run]]) -> list[Row]:
    """Return one row per engine, in their order; speed-up is over the median of `backprop`."""
    rows = [make_row(engine, many) for engine, many in runs.items()]
    base = next((row.get("samples_per_s") for row in rows if row["engine"] == "backprop"), None)
    for row in rows:
        speed, spread = row.get("samples_per_s"), row.get("samples_per_s_spread")
        row["speedup"] = speed / base if base and speed else None
        row["speedup_spread"] = [value / base for value in spread] if base and spread else None
    return rows


def make_row(engine: str, runs: Sequence[Run]) -> Row:
    """Return the medians over the runs of one engine, or the reason why one failed."""
    failed = next((run for run in runs if "error" in run), None)
    if failed:
        return {"engine": engine, "stages": failed["stages"], "error": failed["error"]}
    kept = [_kept(run) for run in runs]
    stages = range(len(runs[0]["stages"]))
    metric_name = runs[0].get("metric_name", "accuracy")
    test_metric = metric_key("test", metric_name)

    def per_stage(key: str) -> list[list[Any]]:
        return [[run["stages"][i][key] for run in kept] for i in stages]

    return {
        "engine": engine,
        "stages": len(stages),
        "metric_name": metric_name,
        "micro_batches": sorted({run["micro_batches"] for run in kept if run["micro_batches"]}),
        "utilisation": [median(values) for values in per_stage("utilisation")],
        **_medians(kept, "samples_per_s", test_metric, "best_epoch", "train_s"),
        "until": _until([run["until"] for run in kept]),
        "peak_rss_bytes": [_most(values) for values in per_stage("peak_rss_bytes")],
        "peak_gpu_bytes": [_most(values) for values in per_stage("peak_gpu_bytes")],
        "held_bytes": [_most(values) for values in per_stage("held_bytes")],
        "notes": list(dict.fromkeys(note for run in runs for note in run["notes"])),
        "runs": kept,
    }


def flat_row(row: Row) -> dict[str, Any]:
    """Return a row for a table of other programs: without the single runs, [min, max] as two columns, and
    what there is of --until as `until_seconds`, `until_epochs` and so on."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("runs", "notes"):
            continue
        if key.endswith("_spread"):
            name = key.removesuffix("_spread")
            if value and len(row["runs"]) > 1:
                flat |= {f"{name}_min": value[0], f"{name}_max": value[1]}
        elif isinstance(value, Mapping):
            flat |= {f"{key}_{name}": each for name, each in value.items()}
        else:
            flat[key] = value
    return flat


def _kept(run: Run) -> dict[str, Any]:
    """Return what the comparison keeps of one run."""
    split, stopping = split_of(run["evaluations"]), run.get("early_stopping") or {}
    name = run.get("metric_name", "accuracy")
    curve = ("epoch", "step", "seconds", metric_key(split, name), f"{split}_loss")
    test_metric = metric_key("test", name)
    return {
        "seed": run["seed"],
        "samples_per_s": run["samples_per_s"],
        "train_s": run["train_s"],
        test_metric: run["final"][test_metric],
        "test_loss": run["final"]["test_loss"],
        "best_epoch": (stopping.get("best") or {}).get("epoch"),
        "until": run["until"],
        "micro_batches": run.get("micro_batches"),
        "evaluations": [{key: record.get(key) for key in curve} for record in run["evaluations"]],
        "stages": [
            {
                "utilisation": stage["utilisation"],
                "peak_rss_bytes": stage["peak_rss_bytes"],
                "peak_gpu_bytes": stage.get("peak_gpu_bytes"),
                "held_bytes": held_bytes(stage),
            }
            for stage in run["stages"]
        ],
    }


def held_bytes(stage: Mapping[str, Any]) -> int | None:
    """Return the most bytes that a stage held for other batches: slots of its transport, pending predictions,
    replay window or stash. None where the engine does not report it."""
    known = [stage[key] for key in ("slots_bytes", "held_bytes") if stage.get(key) is not None]
    return sum(known) if known else None


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _medians(runs: Sequence[Mapping[str, Any]], *keys: str) -> dict[str, Any]:
    """Return the median and [min, max] of each key."""
    found: dict[str, Any] = {}
    for key in keys:
        known = [run[key] for run in runs if run[key] is not None]
        found |= {key: median(known), f"{key}_spread": [min(known), max(known)] if known else None}
    return found


def _most(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _until(runs: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return median seconds and epochs to the accuracy; a run that did not reach it counts as infinite."""
    asked = [run for run in runs if run is not None]
    if not asked:
        return None
    found = {"accuracy": asked[0]["accuracy"], "runs": len(asked)}
    found["reached"] = sum(run["reached"] for run in asked)
    for key in ("seconds", "seconds_without_evaluations", "epochs", "steps"):
        middle = statistics.median(math.inf if run[key] is None else run[key] for run in asked)
        found[key] = middle if math.isfinite(middle) else None
    return found
