"""The table of one run: a row per stage, and the result below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.engines.registry import Engine, find_engine
from launch.report.evaluation import metric_key
from launch.report.grid import Grid, column
from launch.report.links import link_utilisation, sent_per_step
from launch.report.text import NOTHING, epochs, layer_range, megabytes, metric, number, percent, run_name


def run_grid(summary: Mapping[str, Any]) -> Grid:
    """Return one row per stage, or per process of an engine that does not cut the network; columns that say
    nothing for this engine are left out."""
    rows, name = summary["stages"], summary.get("metric_name", "accuracy")
    local, links = metric_key("local", name), summary.get("links", ())
    columns = [
        column("stage" if _engine(summary).cut else "process", rows, _stage_name, left=True),
        column("parameters", rows, lambda s: number(s.get("parameters"))),
        column("utilisation", rows, lambda s: percent(s.get("utilisation"))),
        column("busy s", rows, lambda s: number(s.get("busy_s"), 1), spare=True),
        column("wait s", rows, lambda s: number(s.get("wait_s"), 1)),
        column("send s", rows, lambda s: number(s.get("send_s"), 1), spare=True),
        column("sent MB per step\ndown / up", rows, lambda s: sent_per_step(links, s["index"])),
        column("link used\ndown / up", rows, lambda s: link_utilisation(links, s["index"])),
        column("SG s", rows, lambda s: number(s.get("sg_s") or None, 1)),
        column("head s", rows, lambda s: number(s.get("head_s") or None, 1)),
        column("staleness\nmean / max", rows, _staleness),
        column("SG\nerror", rows, lambda s: number(s.get("sg_relative_error"), 2)),
        column("SG\ncosine", rows, lambda s: number(s.get("sg_cosine"), 2)),
        column("local\nloss", rows, lambda s: number(s.get("local_loss"), 3)),
        column(f"local\n{name}", rows, lambda s: metric(s.get(local), name)),
        column("batches\nskipped", rows, lambda s: number(s.get("skipped") or None)),
        column("emulation\noverrun", rows, lambda s: percent(s.get("emulation_overrun"), 1)),
        column("GPU peak\nMB", rows, lambda s: megabytes(s.get("peak_gpu_bytes"))),
        column("peak\nMB", rows, lambda s: megabytes(s.get("peak_rss_bytes")), spare=True),
    ]
    notes = [result_line(summary), *summary.get("notes", ())]
    return Grid(title=_title(summary), columns=columns, notes=notes).without_empty_columns()


def _engine(summary: Mapping[str, Any]) -> Engine:
    return find_engine(summary["settings"].get("engine", "decoupled"))


def _stage_name(stage: Mapping[str, Any]) -> str:
    """Return `0 (layers 0-2)`."""
    layers = stage.get("layers")
    return f"{stage['index']} ({layer_range(layers)})" if layers else str(stage["index"])


def _staleness(stage: Mapping[str, Any]) -> str:
    mean, most = stage.get("staleness_mean"), stage.get("staleness_max")
    if mean is None or not stage.get("targets_received", 1):
        return NOTHING
    return f"{mean:.1f} / {number(most)}"


def _title(summary: Mapping[str, Any]) -> str:
    transports = " + ".join(summary.get("transports") or ())
    processes = _engine(summary).processes_text(len(summary["stages"]))
    in_flight = f"{summary['in_flight']} in flight" if summary.get("in_flight") and transports else ""
    parts = [run_name(summary), processes, transports, in_flight]
    return ", ".join([*(part for part in parts if part), f"seed {summary['seed']}"])


def result_line(summary: Mapping[str, Any]) -> str:
    """Return `test accuracy 98.41 %, test loss 0.0513, 12,345 samples/s, 24.3 s`."""
    final, name = summary.get("final") or {}, summary.get("metric_name", "accuracy")
    parts = [
        f"test {name} {metric(final.get(metric_key('test', name)), name, digits=2)}",
        f"test loss {number(final.get('test_loss'), 4)}",
        f"{number(summary.get('samples_per_s'))} samples/s",
        f"{number(summary.get('train_s'), 1)} s",
    ]
    if stopping := summary.get("early_stopping"):
        parts.append(_best_line(stopping, name))
    until = summary.get("until")
    if until and until["reached"]:
        how = f"after {number(until['seconds'], 1)} s (epoch {epochs(until['epochs'])})"
        parts.append(f"{percent(until['accuracy'], 1)} reached {how}")
    elif until:
        parts.append(f"{percent(until['accuracy'], 1)} not reached")
    return ", ".join(parts)


def _best_line(stopping: Mapping[str, Any], name: str) -> str:
    """Return `weights of epoch 3 (validation accuracy 97.12 %), ended by patience`."""
    best, ended = stopping["best"], f"ended by {stopping['ended']}"
    if best is None:
        return f"no validation, {ended}"
    score = metric(best[metric_key("validation", name)], name, digits=2)
    return f"weights of epoch {epochs(best['epoch'])} (validation {name} {score}), {ended}"
