"""Numbers and names as people read them, the same in every table, picture and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "-"


def number(value: float | None, digits: int = 0) -> str:
    """Return `12,346` for 12345.6; `-` for None."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """Return `98 %` for 0.984."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def megabytes(size: int | None, digits: int = 0) -> str:
    """Return `412` for 412,300,000 bytes."""
    return number(None if size is None else size / 1e6, digits)


def times(factor: float | None) -> str:
    """Return `1.82 x`."""
    return NOTHING if factor is None else f"{factor:.2f} x"


def epochs(count: float | None) -> str:
    """Return `3` for 3, and `1.25` for 1.25."""
    return NOTHING if count is None else str(int(count)) if count == int(count) else f"{count:.2f}"


def metric(value: float | None, name: str = "accuracy", digits: int = 1) -> str:
    """Return an accuracy in per cent, and any other metric as a number."""
    if name == "accuracy":
        return percent(value, digits)
    return NOTHING if value is None else f"{value:.4g}"


def one_line(text: object) -> str:
    """Return the text without line breaks."""
    return " ".join(str(text).split())


def run_name(summary: Mapping[str, Any]) -> str:
    """Return `mnist-fcn, cdni`; on emulated devices `mnist-fcn, cdni, emulated (5 GFLOP/s per stage)`."""
    parts = [*(summary.get(key) for key in ("task", "engine")), conditions(summary)]
    return ", ".join(str(part) for part in parts if part)


def conditions(summary: Mapping[str, Any]) -> str:
    """Return `bf16, emulated (5 GFLOP/s per stage)`; nothing for a run in fp32 on real devices."""
    precision, speed = summary.get("precision", "fp32"), summary.get("emulated_gflops")
    parts = [
        precision if precision != "fp32" else "",
        f"emulated ({speed:g} GFLOP/s per stage)" if speed else "",
    ]
    return ", ".join(part for part in parts if part)


def layer_range(layers: Sequence[str]) -> str:
    """Return `layers 0-2` for `["0 Linear", "1 ReLU", "2 Linear"]`."""
    first, last = layers[0].split()[0], layers[-1].split()[0]
    return f"layer {first}" if len(layers) == 1 else f"layers {first}-{last}"
