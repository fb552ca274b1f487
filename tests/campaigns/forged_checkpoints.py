"""Checkpoints are damaged or forged: the run must use the older one, or end with one line and status 2.

    python -m tests.campaigns.forged_checkpoints                          every forged file, 50 damaged ones
    python -m tests.campaigns.forged_checkpoints --random 500 --seed 1    more random damage

A run leaves checkpoints of steps 9 and 12. A case changes files of step 12 (a forged manifest gets the
checksum that belongs to it) or beside the checkpoints, and the run is resumed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import safetensors.torch

from tests.campaigns.report import Report, known_faults
from tests.support.damage import random_damage
from tests.support.jobs import run
from tests.support.refusal import refusal_problem

OPTIONS = ("--task", "tests.support.tiny_task:Tiny", "--batch-size", "16", "--epochs", "3", "--deterministic")
NEWEST = 12
MANIFEST, PART = "manifest.json", "stage-0.safetensors"
CASE_TIMEOUT_S = 60.0

Change = Callable[[Path], None]
"""Changes files in the folder of a run."""


def newest(run: Path) -> Path:
    """Return the folder of the newest checkpoint."""
    return run / "checkpoints" / f"step-{NEWEST:08d}"


def whole_manifest(text: str, run: Path) -> None:
    """Replace the whole text of the manifest."""
    (newest(run) / MANIFEST).write_text(text)


def signed_manifest(edit: Callable[[dict[str, Any]], object], run: Path) -> None:
    """Edit the content of the manifest, and give it the checksum that belongs to it."""
    path = newest(run) / MANIFEST
    content = json.loads(path.read_text())["content"]
    edit(content)
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"format": 1, "sha256": checksum, "content": content}))


def field(name: str, value: object, run: Path) -> None:
    """Give a field of the content of the manifest another value."""
    signed_manifest(lambda content: content.update({name: value}), run)


def file_field(name: str, value: object, run: Path) -> None:
    """Give a field of the first file of the manifest another value."""
    signed_manifest(lambda content: content["files"][0].update({name: value}), run)


def without(name: str, run: Path) -> None:
    """Remove a field of the content of the manifest."""
    signed_manifest(lambda content: content.pop(name), run)


def signed_part(data: bytes, run: Path) -> None:
    """Replace the part of stage 0, with the size and checksum that belong to it in the manifest."""
    (newest(run) / PART).write_bytes(data)
    told = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    signed_manifest(lambda content: content["files"][0].update(told), run)


def part_of_older_set(run: Path) -> None:
    """Replace the part of stage 0 by that of the older checkpoint."""
    signed_part((run / "checkpoints" / "step-00000009" / PART).read_bytes(), run)


def part_without_label(run: Path) -> None:
    """Remove the words about run, step and stage from the part of stage 0."""
    data = (newest(run) / PART).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    state = json.loads(header["__metadata__"]["state"])
    del state["<label>"]
    signed_part(safetensors.torch.save(safetensors.torch.load(data), {"state": json.dumps(state)}), run)


def replaced(name: str, make: Callable[[Path], object], run: Path) -> None:
    """Put something else in the place of a file of the newest checkpoint."""
    path = newest(run) / name
    path.unlink()
    make(path)


def beside(name: str, data: bytes, run: Path) -> None:
    """Write a file into the folder of the run."""
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def damage(seed: int, run: Path) -> None:
    """Damage a random file of the newest checkpoint."""
    rng = random.Random(seed)
    random_damage(rng, rng.choice(sorted(newest(run).iterdir())))


WRONG = (None, True, -1, 1.5, 10**30, "x", "", [], [1], {}, {"a": 1})
"""Values of every type of JSON."""
BOUNDS = (
    *([[0, 2]], [[0, 6]], [[0, -1]], [[0, "5"]], [[0, 5.0]], [[0, 5, 6]], [[1, 5]], [[5, 0]]),
    *([[0, 3], [2, 5]], [[2, 5], [0, 2]], [[0, 0], [0, 5]]),
)
NAMES = ("../step-00000009/" + PART, "/etc/passwd", "/dev/null", "", ".", "..", "a\0b", "x" * 5000)
MANIFESTS = (
    *("", "x", "[]", "1", "null", "[" * 100_000, "9" * 10_000),
    *('{"format": 1}', '{"format": "1"}', '{"format": 2, "content": {}, "sha256": ""}'),
    '{"format": 1, "content": [], "sha256": null}',
)


def forged() -> dict[str, Change]:
    """Return the forged files by name."""
    changes: dict[str, Change] = {}
    for name in ("step", "bounds", "settings", "record", "files", "run"):
        changes[f"{name} is missing"] = partial(without, name)
        changes |= {f"{name} is {value!r}": partial(field, name, value) for value in WRONG}
    for name in ("name", "bytes", "sha256"):
        changes |= {f"{name} of a file is {value!r}": partial(file_field, name, value) for value in WRONG}
    changes |= {f"bounds are {value}": partial(field, "bounds", value) for value in BOUNDS}
    changes |= {f"a file is called {value[:40]!r}": partial(file_field, "name", value) for value in NAMES}
    changes |= {f"the manifest is {text[:40]!r}": partial(whole_manifest, text) for text in MANIFESTS}
    return changes | {
        "a foreign field is added": partial(field, "more", 1),
        "one file too few": partial(signed_manifest, lambda content: content["files"].pop()),
        "one file too many": partial(signed_manifest, lambda content: content["files"].append({})),
        "the manifest is not UTF-8": partial(replaced, MANIFEST, lambda path: path.write_bytes(b"\xff{}")),
        "the manifest is a folder": partial(replaced, MANIFEST, Path.mkdir),
        "the manifest is a fifo": partial(replaced, MANIFEST, os.mkfifo),
        "the part is missing": partial(replaced, PART, lambda path: None),
        "the part is a folder": partial(replaced, PART, Path.mkdir),
        "the part is a fifo": partial(replaced, PART, os.mkfifo),
        "the part is empty": partial(signed_part, b""),
        "the part is text": partial(signed_part, b"x" * 1000),
        "the part has no tensors": partial(signed_part, b"\x02\0\0\0\0\0\0\0{}"),
        "the part has an enormous header": partial(signed_part, b"\xff" * 7 + b"\x7f{}"),
        "the part is that of the older checkpoint": part_of_older_set,
        "the part has no label": part_without_label,
        "metrics have a bad byte": partial(beside, "metrics.jsonl", b'{"kind": "epoch", "step": 4}\n\xff\n'),
        "the reached step is infinite": partial(
            beside, "reached.json", b'{"step": Infinity, "lost_steps": 0}'
        ),
        "a folder has a foreign digit": partial(beside, "checkpoints/step-\u00b2/manifest.json", b"{}"),
        "a folder has no number": partial(beside, "checkpoints/step-/manifest.json", b"{}"),
        "a folder has an enormous number": partial(beside, f"checkpoints/step-{9:0200}/manifest.json", b"{}"),
    }


KNOWN_FAULTS = known_faults({}, forged())
"""Cases that end otherwise, and why; a case that is mended must leave."""


def problem(change: Change, original: Path, folder: Path) -> str:
    """Resume a changed copy of a run; return what is wrong with the end, "" when nothing is."""
    shutil.copytree(original, folder)
    change(folder)
    try:
        done = train(folder, "--resume")
    except AssertionError as error:
        return str(error)
    ours = all(line.startswith("dni-async: ") for line in done.stderr.splitlines())
    return "" if done.returncode == 0 and ours else refusal_problem(done)


def train(folder: Path, *options: str) -> CompletedProcess[str]:
    """Train in a folder to the end, with checkpoints every three steps."""
    checkpoints = ("--checkpoint-every", "3", "--out", str(folder), "--quiet")
    return run("launch.train", *OPTIONS, *checkpoints, *options, timeout=CASE_TIMEOUT_S)


def damaged(count: int, seed: int) -> dict[str, Change]:
    """Return so many cases of random damage by name."""
    return {f"random damage {number}": partial(damage, number) for number in range(seed, seed + count)}


def campaign(changes: Mapping[str, Change], folder: Path) -> Report:
    """Try every change; a known fault that is mended is a problem, too."""
    report, original = Report(), folder / "original"
    assert train(original).returncode == 0
    for name, change in changes.items():
        copy = folder / str(report.cases)
        report.add(name, problem(change, original, copy), KNOWN_FAULTS.get(name, ""))
        shutil.rmtree(copy)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.forged_checkpoints")
    parser.add_argument("--random", type=int, default=50, help="cases of random damage")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return campaign(forged() | damaged(asked.random, asked.seed), Path(folder)).show()


if __name__ == "__main__":
    sys.exit(main())
