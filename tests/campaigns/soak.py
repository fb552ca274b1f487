"""A long run at full speed, watched from outside: does any of its processes grow?

    python -m tests.campaigns.soak --minutes 60 --out runs/soak --stages 3 --task mnist-fcn

All options of launch.train may follow. OUT/soak.jsonl gets the samples and OUT/soak.json the comparison; the
exit status is 1 when something grew or the run failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.campaigns.report import Report
from tests.support.growth import LEAST_SAMPLES, TOLERANCE, WARM_UP, ProcessWatch, Sample, growth, ranks_below
from tests.support.jobs import started

ENOUGH_EPOCHS = "1000000"
END_TIMEOUT_S = 300.0
"""Seconds for the start, the download of data, and everything behind the last batch."""


def soak(out: Path, minutes: float, every: float, options: Sequence[str] = ()) -> Report:
    """Train for some minutes and compare what the ranks hold at the end with the beginning.

    Args:
        out: folder for the run and the samples.
        minutes: how long to train.
        every: seconds between two samples.
        options: of launch.train, such as ("--stages", "3").
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    metrics = out / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    command = [sys.executable, "-m", "launch.train", "--epochs", ENOUGH_EPOCHS, *options]
    command += ["--minutes", str(minutes), "--out", str(out)]
    with started(command, output=None) as launcher:

        def ranks_in_training() -> list[psutil.Process]:
            training = metrics.exists() and metrics.stat().st_size > 0
            return ranks_below(psutil.Process(launcher.pid)) if training else []

        watch = ProcessWatch(ranks_in_training, every, out / "soak.jsonl")
        watch.start()
        try:
            status = launcher.wait(60 * minutes + END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return Report(1, [f"the run did not end {END_TIMEOUT_S:g} s after its {minutes:g} minutes"])
        finally:
            watch.stop()
    if status:
        return Report(1, [f"the run ended with status {status}"])
    report, rows = compare(watch.samples)
    (out / "soak.json").write_text(json.dumps({"looks": len(watch.samples), "ranks": rows}, indent=2))
    return report


def compare(samples: Sequence[Sequence[Sample]]) -> tuple[Report, list[dict[str, Any]]]:
    """Print what every rank held at the beginning and at the end; return what grew, and the comparison."""
    if len(samples) < LEAST_SAMPLES:
        return Report(1, [f"there are {len(samples)} samples only; give more minutes"]), []
    rows = growth(samples)
    print(f"{len(samples)} samples: first -> last third, after a warm-up of {WARM_UP:.0%}")
    for row in rows:
        held = (f"{name} {row[name][0]:.0f} -> {row[name][1]:.0f}" for name in TOLERANCE)
        print(f"rank {row['rank']}: {', '.join(held)}")
    grew = [f"rank {row['rank']}: {', '.join(row['grew'])} grew" for row in rows if row["grew"]]
    return Report(len(rows), grew), rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.soak", epilog="and all options of launch.train")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--out", type=Path, required=True)
    asked, options = parser.parse_known_args()
    return soak(asked.out, asked.minutes, asked.every, ["--stages", "2", *options]).show()


if __name__ == "__main__":
    sys.exit(main())
