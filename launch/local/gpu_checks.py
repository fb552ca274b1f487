"""The checks of `launch.gpu_check`, each to be run in a process of its own.

pinning      host memory is pinned, and a kernel runs behind a failed pinning      tests    pytest -m gpu
oracle       backprop, to the bit                 resume      with dropout, to the bit
supervise    a stage is killed and goes on        latency     of messages, by transport and size
speed        engines side by side (speed-mps: under MPS)      gpt      12 blocks in 4 stages, with a timeline
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dni_async.errors import StageError
from launch.report.weights import load_all
from workers.runtime.cuda import accelerator_of
from workers.transport.slots import Slot

WIDE, GPT = "launch.local.gpu_tasks:Wide", "launch.local.gpu_tasks:Gpt"
ROOT = Path(__file__).parents[2]
AT_ONCE = 4
"""Jobs of a check that run side by side."""


@dataclass(frozen=True, slots=True)
class Setting:
    """On what a check runs, and where it leaves its files."""

    device: str
    """cuda, or cpu for a dry run with tiny networks."""
    folder: Path

    @property
    def small(self) -> bool:
        """Whether everything is tiny."""
        return self.device == "cpu"

    def run(self, module: str, *arguments: str, **environment: str) -> None:
        """Run a command of `launch`. Raises StageError with the last line that it wrote."""
        command = [sys.executable, "-m", f"launch.{module}", *arguments, "--device", self.device, "--quiet"]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"]
            raise StageError(f"launch.{module} ended with status {done.returncode}: {lines[-1]}")

    def train(self, name: str, *arguments: str, **environment: str) -> dict[str, Any]:
        """Train with these arguments, and return the summary."""
        out = self.folder / name
        self.run("train", *arguments, "--out", str(out), **environment)
        summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
        return summary

    def weights(self, name: str, stages: int) -> dict[str, torch.Tensor]:
        """Return what `train` has trained."""
        return load_all(self.folder / name, stages)


def pinning(setting: Setting) -> dict[str, Any]:
    """Pin a slot and compute; fail to pin, and compute again: the error must not be the kernel's."""
    device = torch.device(setting.device)
    slot = Slot.create(1 << 22, pin=True)
    accelerator = accelerator_of(device)
    refused = accelerator is not None and not accelerator.pin(0, 0)
    total = float(torch.ones(1000, device=device).sum())
    if total != 1000.0:
        raise StageError(f"a kernel behind a failed pinning returned {total}")
    pinned = slot.pinned
    slot.close()
    if accelerator is not None and not (pinned and refused):
        raise StageError(f"pinning a slot returned {pinned}, pinning address 0 returned {not refused}")
    return {"pinned": pinned, "device": str(device), "uuid": accelerator.identity() if accelerator else None}


def tests(setting: Setting) -> dict[str, Any]:
    """The tests that need a GPU."""
    files = ["tests/workers/transport/test_cuda_copies.py", "tests/workers/runtime/test_cuda.py"]
    files += [] if setting.small else ["tests/dni_async/wrapper/test_dni.py"]
    marker = ["-m", "not gpu and not slow"] if setting.small else ["-m", "gpu"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *marker, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode:
        raise StageError(last)
    return {"pytest": last}


def oracle(setting: Setting) -> dict[str, Any]:
    """With an oracle, stages train as backprop does, to the bit."""
    common = ["--task", WIDE, "--batch-size", "64", "--epochs", "2", "--deterministic", "--seed", "3"]
    precisions = ("fp32", "bf16")
    cases = [(p, s, n) for p in precisions for s in (2, 4) for n in (1, 4)]
    if setting.small:
        cases = cases[::3]

    def backprop(precision: str) -> None:
        setting.train(f"backprop-{precision}", *common, "--engine", "backprop", "--precision", precision)

    def stages(case: tuple[str, int, int]) -> str:
        precision, count, in_flight = case
        name = f"oracle-{precision}-{count}-{in_flight}"
        options = ["--rule", "oracle", "--stages", str(count), "--in-flight", str(in_flight)]
        options += ["--transport", "shm", "--precision", precision]
        setting.train(name, *common, *options)
        found, wanted = setting.weights(name, count), setting.weights(f"backprop-{precision}", 1)
        differ = [key for key, value in wanted.items() if not torch.equal(value, found[key])]
        return f"{name}: {', '.join(differ)} differ" if differ else ""

    with ThreadPoolExecutor(1 if setting.small else AT_ONCE) as pool:
        list(pool.map(backprop, precisions))
        if problems := [line for line in pool.map(stages, cases) if line]:
            raise StageError("; ".join(problems))
    return {"cases": [list(case) for case in cases], "equal": True}


def resume(setting: Setting) -> dict[str, Any]:
    """A run that is resumed ends with the bits of one that was not interrupted, dropout included."""
    common = ["--task", WIDE, "--task-args", "dropout=0.2", "--batch-size", "64", "--deterministic"]
    common += ["--stages", "2", "--checkpoint-every", "0", "--rule", "cdni"]
    setting.train("whole", *common, "--epochs", "2")
    setting.train("halves", *common, "--epochs", "1")
    setting.train("halves", *common, "--epochs", "2", "--resume")
    wanted, found = setting.weights("whole", 2), setting.weights("halves", 2)
    if differ := [key for key, value in wanted.items() if not torch.equal(value, found[key])]:
        raise StageError(f"{', '.join(differ)} differ behind a checkpoint")
    return {"equal": True}


def supervise(setting: Setting) -> dict[str, Any]:
    """A stage that is killed is started again, and the run ends well."""
    struck = setting.folder / "struck"
    struck.mkdir(parents=True, exist_ok=True)
    summary = setting.train(
        "supervised",
        *("--task", WIDE, "--batch-size", "64", "--epochs", "3", "--stages", "2", "--supervise"),
        *("--stage-restarts", "2", "--checkpoint-every", "4"),
        DNI_ASYNC_INJECT="kill@1:9",
        DNI_ASYNC_INJECTED=str(struck),
    )
    restarts = [stage["restarts"] for stage in summary["stages"]]
    if restarts != [0, 1]:
        raise StageError(f"the stages were started again {restarts} times, not [0, 1]")
    return {"restarts": restarts, "lost_updates": [stage["lost_updates"] for stage in summary["stages"]]}


def latency(setting: Setting) -> dict[str, Any]:
    """What a message costs, by transport and size."""
    repeats = "3" if setting.small else "50"
    setting.run(
        "latency", "--transports", "shm", "tcp", "dist", "--repeats", repeats, "--out", str(setting.folder)
    )
    found: dict[str, Any] = json.loads((setting.folder / "latency.json").read_text())
    return {"sizes": found["sizes"], "seconds": found["arrival"]}


def speed(setting: Setting) -> dict[str, Any]:
    """Engines side by side, all stages on one GPU."""
    args, batch, epochs = "width=4096 depth=8 samples=102400 tests=2048", "2048", "3"
    if setting.small:
        args, batch, epochs = "width=32 samples=256 tests=32", "32", "1"
    task = ["--task", WIDE, "--task-args", *args.split(), "--batch-size", batch, "--epochs", epochs]
    return _compare(setting, task, 2)


def speed_mps(setting: Setting) -> dict[str, Any]:
    """The same where the processes share the GPU by NVIDIA's Multi-Process Service."""
    with _mps(setting) as running:
        return speed(setting) | {"mps": running}


def gpt(setting: Setting) -> dict[str, Any]:
    """A GPT of 12 blocks in four stages; leaves the timeline of a run for ui.perfetto.dev."""
    args, batch = "width=512 depth=12 heads=8 context=256 samples=1920 tests=32", "32"
    if setting.small:
        args, batch = "samples=32 tests=8", "8"
    task = ["--task", GPT, "--task-args", *args.split(), "--batch-size", batch, "--epochs", "1"]
    engines: tuple[str, ...] = ("backprop", "local", "cdni")
    found = _compare(setting, task, 4, engines)
    setting.train("timeline", *task, "--stages", "4", "--rule", "cdni", "--precision", "bf16")
    shutil.copyfile(setting.folder / "timeline" / "timeline.json", setting.folder / "gpt-trace.json")
    return found | {"trace": "runs/gpt/gpt-trace.json"}


def _compare(
    setting: Setting,
    task: list[str],
    stages: int,
    engines: tuple[str, ...] = ("backprop", "copies", "delayed", "local", "cdni"),
) -> dict[str, Any]:
    out = setting.folder / "compare"
    options = ["--engines", *engines, "--stages", str(stages), "--precision", "bf16", "--out", str(out)]
    setting.run("compare", *task, *options)
    rows = json.loads((out / "compare.json").read_text())["rows"]
    keys = ("engine", "stages", "samples_per_s", "speedup", "utilisation", "peak_gpu_bytes", "notes")
    return {"rows": [{key: row.get(key) for key in (*keys, "error") if key in row} for row in rows]}


@contextlib.contextmanager
def _mps(setting: Setting) -> Iterator[bool]:
    """Run the service for the jobs of a block, if it is installed. Raises StageError."""
    control = shutil.which("nvidia-cuda-mps-control")
    if setting.small:
        yield False
        return
    if control is None:
        raise StageError("left out: nvidia-cuda-mps-control is not installed")
    folder = setting.folder / "mps"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    subprocess.run([control, "-d"], check=True, timeout=20)
    try:
        yield True
    finally:
        subprocess.run([control], input="quit\n", text=True, check=False, timeout=20)


CHECKS: dict[str, tuple[Callable[[Setting], dict[str, Any]], float]] = {
    "pinning": (pinning, 60.0),
    "tests": (tests, 60.0),
    "oracle": (oracle, 120.0),
    "resume": (resume, 60.0),
    "supervise": (supervise, 45.0),
    "latency": (latency, 60.0),
    "speed": (speed, 150.0),
    "gpt": (gpt, 120.0),
    "speed-mps": (speed_mps, 120.0),
}
"""In order of importance: what each does, and the seconds that it may take."""
