"""Of checkpoints on disk only whole sets count, and only files that are as they were written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dni_async.state.state_dict import State
from tests.support.damage import flip_a_bit, full_disk
from workers.checkpoint.manifest import MANIFEST, Damaged, Manifest
from workers.checkpoint.store import CheckpointStore

Bounds = list[tuple[int, int]]
BOUNDS: Bounds = [(0, 2), (2, 5)]
SETTINGS = {"task": "Tiny", "seed": 3, "sg": {"lr": None}}
RECORD = {"seconds": 1.25, "epochs": [{"epoch": 1, "loss": 0.1}]}


def a_state(step: int, stage: int) -> State:
    return {"counts": {"steps": step}, "layers": {"0.weight": torch.full((4, 4), float(stage))}}


def written(checkpoints: CheckpointStore, step: int, complete: bool = True, run: str = "ab12") -> Manifest:
    files = [checkpoints.write_part(step, stage, a_state(step, stage), run) for stage in range(2)]
    manifest = Manifest(step, BOUNDS, SETTINGS, RECORD, files, run)
    if complete:
        checkpoints.complete(manifest)
    return manifest


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    """Sets of steps 20 and 40."""
    kept = CheckpointStore(tmp_path)
    for step in (20, 40):
        written(kept, step)
    return kept


def part(checkpoints: CheckpointStore, step: int = 40, stage: int = 1) -> Path:
    return checkpoints.folder / f"step-{step:08d}" / f"stage-{stage}.safetensors"


def test_a_set_comes_back_as_it_was_written(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path)
    manifest = written(checkpoints, 40)
    found, refused = checkpoints.newest()
    assert (found, refused) == (manifest, [])
    assert found.bounds == BOUNDS and isinstance(found.bounds[0], tuple)
    for stage in range(2):
        state = checkpoints.read_part(found, stage)
        assert state["counts"] == {"steps": 40}
        assert torch.equal(state["layers"]["0.weight"], torch.full((4, 4), float(stage)))
    assert sorted(path.name for path in part(checkpoints).parent.iterdir()) == [
        MANIFEST,
        "stage-0.safetensors",
        "stage-1.safetensors",
    ]


def test_a_new_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path).newest() == (None, [])
    assert CheckpointStore(tmp_path).steps() == []


def test_a_set_without_its_manifest_does_not_count(checkpoints: CheckpointStore) -> None:
    written(checkpoints, 60, complete=False)
    assert checkpoints.steps() == [20, 40]
    found, refused = checkpoints.newest()
    assert found is not None and (found.step, refused) == (40, [])


def test_the_two_newest_sets_and_foreign_files_are_left(
    checkpoints: CheckpointStore,
) -> None:
    written(checkpoints, 10, complete=False)
    (checkpoints.folder / "step-by-step").mkdir()
    written(checkpoints, 60)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "step-00000040",
        "step-00000060",
        "step-by-step",
    ]
    assert checkpoints.steps() == [40, 60]


def test_a_set_that_cannot_be_completed_is_removed(checkpoints: CheckpointStore) -> None:
    written(checkpoints, 60, complete=False)
    checkpoints.discard(60)
    assert checkpoints.steps() == [20, 40] and len(list(checkpoints.folder.iterdir())) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def older(path: Path) -> None:
    """The same file of the set before."""
    shutil.copy(str(path).replace("00000040", "00000020"), path)


def foreign(path: Path) -> None:
    """Of as many bytes, and nothing of ours."""
    path.write_bytes(b"x" * path.stat().st_size)


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (truncate, r"has \d+ bytes where \d+ were written"),
    (flip_a_bit, r"is damaged or of another set \(its checksum differs\)"),
    (older, r"is damaged or of another set \(its checksum differs\)"),
    (foreign, r"is damaged or of another set \(its checksum differs\)"),
    (Path.unlink, "is missing"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_a_damaged_part_is_refused_by_name_and_the_older_set_is_usable(
    checkpoints: CheckpointStore, damage: Callable[[Path], None], reason: str
) -> None:
    manifest = checkpoints.manifest(40)
    damage(part(checkpoints))
    with pytest.raises(Damaged, match=f"^checkpoint file {part(checkpoints)} {reason}$"):
        checkpoints.read_part(manifest, 1)
    found, refused = checkpoints.newest()
    assert found is not None and found.step == 20
    assert len(refused) == 1 and str(part(checkpoints)) in refused[0]
    assert checkpoints.read_part(found, 1)["counts"] == {"steps": 20}


@pytest.mark.parametrize(
    ("run", "step", "stage"), [("ab12", 20, 1), ("ab12", 40, 0), ("cd34", 40, 1), ("", 40, 1)]
)
def test_a_part_of_another_set_is_refused_although_the_manifest_has_its_checksum(
    checkpoints: CheckpointStore, run: str, step: int, stage: int
) -> None:
    manifest = checkpoints.manifest(40)
    elsewhere = CheckpointStore(checkpoints.folder / "elsewhere")
    manifest.files[1] = elsewhere.write_part(step, stage, a_state(step, stage), run)
    manifest.files[1] |= {"name": part(checkpoints).name}
    shutil.copy(part(elsewhere, step, stage), part(checkpoints))
    checkpoints.complete(manifest)
    found, refused = checkpoints.newest()
    what = f"run {run}, step {step}, stage {stage}" if run else "without a label"
    assert found is not None and found.step == 20
    assert refused == [
        f"checkpoint file {part(checkpoints)} is of another set ({what}; not run ab12, step 40, stage 1)"
    ]
    with pytest.raises(Damaged, match="is of another set"):
        checkpoints.read_part(manifest, 1)


def test_a_set_of_an_earlier_version_names_no_run_and_is_read(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path)
    written(checkpoints, 40, run="")
    path = part(checkpoints).with_name(MANIFEST)
    content = json.loads(path.read_text())["content"]
    del content["run"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"format": 1, "sha256": checksum, "content": content}))
    found, refused = checkpoints.newest()
    assert found is not None and (found.step, found.run, refused) == (40, "", [])
    assert checkpoints.read_part(found, 1)["counts"] == {"steps": 40}


DAMAGED_MANIFEST: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "is no manifest of a checkpoint, or is damaged"),
    (foreign, "is no manifest of a checkpoint, or is damaged"),
    (lambda path: path.write_text("[1]"), "is no manifest of a checkpoint, or is damaged"),
    (lambda path: path.write_text("{}"), "is no manifest of a checkpoint, or is damaged"),
    (
        lambda path: path.write_text(path.read_text().replace('"seed": 3', '"seed": 4')),
        r"is damaged \(its checksum differs\)",
    ),
    (older, "is that of step 20; it belongs into another folder"),
    (
        lambda path: path.write_text(path.read_text().replace('"format": 1', '"format": 0')),
        "is of format 0, and this version reads format 1; resume with the version that wrote it",
    ),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGED_MANIFEST)
def test_a_damaged_manifest_is_refused_by_name_and_the_older_set_is_usable(
    checkpoints: CheckpointStore, damage: Callable[[Path], None], reason: str
) -> None:
    path = part(checkpoints).with_name(MANIFEST)
    damage(path)
    with pytest.raises(Damaged, match=f"^checkpoint file {path} {reason}$"):
        checkpoints.manifest(40)
    found, refused = checkpoints.newest()
    assert found is not None and found.step == 20
    assert len(refused) == 1 and str(path) in refused[0]


def test_every_flipped_bit_of_a_small_manifest_is_noticed(checkpoints: CheckpointStore) -> None:
    path = part(checkpoints).with_name(MANIFEST)
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(Damaged):
            checkpoints.manifest(40)


def test_a_file_with_a_right_checksum_that_is_no_state_is_refused(checkpoints: CheckpointStore) -> None:
    manifest, path = checkpoints.manifest(40), part(checkpoints)
    data = path.read_bytes().replace(b"__metadata__", b"__metatada__")
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    manifest.files[1] = {"name": path.name, "bytes": len(data), "sha256": sha256}
    with pytest.raises(Damaged, match="cannot be read"):
        checkpoints.read_part(manifest, 1)


def test_a_full_disk_leaves_the_existing_sets(checkpoints: CheckpointStore) -> None:
    big = {"layers": {"0.weight": torch.zeros(10_000)}}
    with full_disk():
        told = checkpoints.write_part(60, 0, big)
    assert told == {"error": f"{part(checkpoints, 60, 0)}: File too large"}
    assert list(part(checkpoints, 60, 0).parent.iterdir()) == []
    found, _ = checkpoints.newest()
    assert found is not None and found.step == 40


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(checkpoints: CheckpointStore, value: float) -> None:
    state = a_state(60, 1)
    state["layers"]["0.weight"][2, 3] = value
    assert checkpoints.write_part(60, 1, state) == {"error": "weights of stage 1 are NaN or infinite"}
    assert not part(checkpoints, 60).exists()


def test_after_a_fallback_the_older_set_outlives_the_damaged_set(checkpoints: CheckpointStore) -> None:
    """Resumed from 20 because 40 is damaged: when 30 is written, 20 is still the one before."""
    flip_a_bit(part(checkpoints))
    checkpoints.set_aside(20)
    written(checkpoints, 30)
    assert checkpoints.steps() == [20, 30]
    flip_a_bit(part(checkpoints, 30))
    found, refused = checkpoints.newest()
    assert found is not None and found.step == 20 and len(refused) == 1


def test_a_set_that_was_set_aside_no_longer_counts_and_stays_as_it_was(checkpoints: CheckpointStore) -> None:
    before = part(checkpoints).read_bytes()
    (aside,) = checkpoints.set_aside(20)
    assert checkpoints.steps() == [20] and checkpoints.set_aside(20) == []
    assert (aside / "stage-1.safetensors").read_bytes() == before
    found, refused = checkpoints.newest()
    assert found is not None and (found.step, refused) == (20, [])
    written(checkpoints, 40)
    assert checkpoints.steps() == [20, 40]
    assert checkpoints.set_aside(20) == [aside]  # in the place of the first


def test_the_manifest_is_json_for_people(checkpoints: CheckpointStore) -> None:
    told = json.loads(part(checkpoints).with_name(MANIFEST).read_text())
    assert told["content"]["settings"] == SETTINGS and told["content"]["record"] == RECORD


class TestTheNewestPartOfAStage:
    def step(
        self, checkpoints: CheckpointStore, stage: int = 1, bounds: Bounds = BOUNDS, start: int = 0
    ) -> int | None:
        state = checkpoints.newest_part(stage, bounds, start)
        return state and state["counts"]["steps"]

    def test_comes_from_the_newest_whole_set(self, checkpoints: CheckpointStore) -> None:
        written(checkpoints, 60, complete=False)
        assert self.step(checkpoints) == 40

    def test_does_not_depend_on_the_parts_of_other_stages(self, checkpoints: CheckpointStore) -> None:
        part(checkpoints, stage=0).unlink()
        assert self.step(checkpoints) == 40
        assert self.step(checkpoints, stage=0) == 20

    def test_comes_from_a_set_of_the_same_cut(self, checkpoints: CheckpointStore) -> None:
        assert self.step(checkpoints, bounds=[(0, 1), (1, 5)]) is None

    def test_comes_from_no_set_that_an_earlier_run_has_left(self, checkpoints: CheckpointStore) -> None:
        assert self.step(checkpoints, start=40) is None
        flip_a_bit(part(checkpoints))
        assert self.step(checkpoints, start=20) is None

    def test_is_none_without_a_checkpoint(self, tmp_path: Path) -> None:
        assert self.step(CheckpointStore(tmp_path)) is None


@pytest.mark.parametrize("name", ["step-²", "step-", "step-000000000020", "step-20", f"step-{20:0200}"])
def test_folders_of_others_are_no_sets(checkpoints: CheckpointStore, name: str) -> None:
    shutil.copytree(checkpoints.folder / "step-00000020", checkpoints.folder / name)
    assert checkpoints.steps() == [20, 40]
