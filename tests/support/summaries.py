"""Made-up runs for the tests of reports."""

from __future__ import annotations

from typing import Any

FORWARD, BACKWARD, UPDATE, SG, SEND, WAIT = 900.0, 1200.0, 300.0, 400.0, 80.0, 120.0


def pipeline(stages: int = 2, epochs: int = 2, steps: int = 20, evaluations: int = 4) -> list[dict[str, Any]]:
    """A regular timeline: stage k starts 1000 us after stage k-1; 3 ms a step; evaluation ends an epoch."""
    rows = []
    for stage in range(stages):
        now, events = 1000.0 * stage, []
        for epoch in range(epochs):
            for step in range(epoch * steps, (epoch + 1) * steps):
                parts = [("forward", FORWARD), ("send", SEND), ("backward", BACKWARD), ("update", UPDATE)]
                for name, duration in [*parts, ("sg", SG), ("wait", WAIT)]:
                    events.append([name, now, duration, step])
                    now += duration
            for step in range(evaluations):
                events.append(["evaluate", now, 800.0, step])
                now += 1000.0
        rows.append({"stage": stage, "events": events})
    return rows


def stage(index: int, last: bool = False) -> dict[str, Any]:
    """What one stage reports at the end of a run."""
    sg = None if last else 1.0
    return {
        "index": index,
        "layers": [f"{2 * index} Linear", f"{2 * index + 1} ReLU"],
        "parameters": 2_691_000,
        "steps": 1170,
        "samples": 300_000,
        "busy_s": 119.32,
        "wait_s": 3.31,
        "send_s": 0.42,
        "sg_s": 0.0 if last else 12.24,
        "utilisation": 0.971 - 0.02 * index,
        "targets_sent": 1170 if index else 0,
        "targets_received": 0 if last else 1170,
        "staleness_mean": sg and 1.02,
        "staleness_max": sg and 2,
        "sg_relative_error": sg and 0.42,
        "sg_cosine": sg and 0.91,
        "peak_rss_bytes": 412_300_000,
        "held_bytes": 1_000_000,
        "slots_bytes": 500_000,
        "threads": 1,
        "cores": [index],
    }


def summary(engine: str = "cdni", stages: int = 2, seconds: float = 4.0, **changes: Any) -> dict[str, Any]:
    """A whole run of five epochs."""
    accuracy = [0.9321, 0.9612, 0.9712, 0.9789, 0.9841]
    epochs = [
        {
            "epoch": i + 1,
            "step": 234 * (i + 1),
            "loss": 0.5 / (i + 1),
            "test_loss": 0.45 / (i + 1) + 0.02,
            "test_accuracy": value,
            "seconds": seconds * (i + 1),
        }
        for i, value in enumerate(accuracy)
    ]
    return {
        "task": "mnist-fcn",
        "engine": engine,
        "rule": engine,
        "seed": 0,
        "dataset": {"train": 60000, "test": 10000},
        "notes": [],
        "versions": {"dni_async": "0.1.0"},
        "hardware": {},
        "settings": {},
        "samples_per_s": 60000 / seconds,
        "train_s": 5 * seconds,
        "metric_name": "accuracy",
        "epochs": epochs,
        "evaluations": changes.get("epochs", epochs),
        "until": None,
        "final": {"loss": 0.1, "test_loss": 0.0513, "test_accuracy": 0.9841},
        "transports": ["shm"],
        "stages": [stage(i, last=i == stages - 1) for i in range(stages)],
        **changes,
    }


def validated(seconds: float = 4.0, best: int = 3) -> dict[str, Any]:
    """The same run with a patience of two epochs; the weights of epoch `best` were tested."""
    run = summary(seconds=seconds)
    records = [
        {key.replace("test_", "validation_"): value for key, value in e.items()} for e in run["epochs"]
    ]
    keys = ("epoch", "step", "validation_loss", "validation_accuracy")
    early = {"best": {key: records[best - 1][key] for key in keys}, "ended": "patience"}
    return run | {"epochs": records, "evaluations": records, "early_stopping": early}


def compared(engine: str, stages: int, speed: float | None, **changes: Any) -> dict[str, Any]:
    """One row of the comparison, of a single run."""
    samples_per_s = 6400.2 * (speed or 1.0)
    return {
        "engine": engine,
        "stages": stages,
        "samples_per_s": samples_per_s,
        "samples_per_s_spread": [samples_per_s, samples_per_s],
        "speedup": speed,
        "speedup_spread": speed and [speed, speed],
        "utilisation": [0.97, 0.95, 0.94, 0.96][:stages],
        "test_accuracy": 0.9841,
        "test_accuracy_spread": [0.9841, 0.9841],
        "train_s": 46.34 / (speed or 1.0),
        "until": None,
        "micro_batches": [],
        "peak_rss_bytes": [412_300_000] * stages,
        "held_bytes": [2_340_000] * stages,
        "runs": [{"samples_per_s": samples_per_s, "evaluations": summary()["evaluations"]}],
        **changes,
    }
