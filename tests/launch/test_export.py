"""What a run has trained, as one state_dict for the uncut network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dni_async.errors import UserError
from launch.export import ExportConfig, export
from launch.report.files import write_json
from launch.report.weights import save_part
from tests.support.damage import flip_a_bit
from tests.support.summaries import summary
from tests.support.tiny_task import five_layers
from workers.checkpoint.manifest import Manifest
from workers.checkpoint.store import CheckpointStore

BOUNDS = [(0, 1), (1, 3), (3, 5)]


def layers(seed: int) -> list[nn.Module]:
    torch.manual_seed(seed)
    return five_layers()


def weights(seed: int) -> dict[str, Tensor]:
    return nn.Sequential(*layers(seed)).state_dict()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 20 and 40, which are also the seeds of their weights."""
    checkpoints = CheckpointStore(tmp_path)
    for step in (20, 40):
        files = []
        for i, (first, end) in enumerate(BOUNDS):
            part = {"layers": dict(nn.Sequential(*layers(step)[first:end]).state_dict())}
            files.append(checkpoints.write_part(step, i, part))
        checkpoints.complete(Manifest(step, BOUNDS, {}, {}, files))
    return tmp_path


def loads_as(state: dict[str, Tensor], seed: int) -> bool:
    model = nn.Sequential(*five_layers())
    model.load_state_dict(state, strict=True)
    wanted = weights(seed)
    return all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_the_newest_checkpoint_loads_strictly_into_the_uncut_network(run: Path) -> None:
    said = export(ExportConfig(run=str(run)))
    assert said == f"{run / 'model.safetensors'}: {len(weights(0))} tensors, the checkpoint of step 40"
    state = load_file(run / "model.safetensors")
    assert loads_as(state, 40) and not loads_as(state, 20)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch_load_reads_the_export_with_weights_only(run: Path, suffix: str) -> None:
    path = run / f"model{suffix}"
    export(ExportConfig(run=str(run), to=str(path)))
    assert loads_as(torch.load(path, weights_only=True), 40)


def test_an_earlier_checkpoint_can_be_exported(run: Path) -> None:
    path = run / "earlier.safetensors"
    assert "step 20" in export(ExportConfig(run=str(run), to=str(path), step=20))
    assert loads_as(load_file(path), 20)
    with pytest.raises(UserError, match=r"no checkpoint of step 30 in .*; there is one of 20, 40"):
        export(ExportConfig(run=str(run), step=30))


def test_a_damaged_checkpoint_is_named_and_the_older_one_exported(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_a_bit(run / "checkpoints" / "step-00000040" / "stage-2.safetensors")
    assert "step 20" in export(ExportConfig(run=str(run)))
    assert "stage-2.safetensors is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"stage-2.safetensors is damaged"):
        export(ExportConfig(run=str(run), step=40))
    flip_a_bit(run / "checkpoints" / "step-00000020" / "stage-0.safetensors")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used"):
        export(ExportConfig(run=str(run)))


def test_without_checkpoints_the_final_weights_are_exported(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", summary(stages=3, settings={"engine": "decoupled"}))
    for i, (first, end) in enumerate(BOUNDS):
        save_part(tmp_path, i, first, nn.Sequential(*layers(5)[first:end]))
    assert "the end of the run" in export(ExportConfig(run=str(tmp_path)))
    assert loads_as(load_file(tmp_path / "model.safetensors"), 5)


def test_engines_that_hold_the_whole_network_export_one_part(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", summary("ddp", stages=2, settings={"engine": "ddp"}))
    save_part(tmp_path, 0, 0, nn.Sequential(*layers(5)))
    export(ExportConfig(run=str(tmp_path)))
    assert loads_as(load_file(tmp_path / "model.safetensors"), 5)


def test_a_folder_without_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^nothing to export here \(.* has no checkpoint and no summary.json"
    ):
        export(ExportConfig(run=str(tmp_path)))


def test_an_export_file_of_another_kind_or_in_no_folder_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"^to is model.bin; the file's name must end in .safetensors, .pt"):
        ExportConfig(run=str(run), to="model.bin")
    with pytest.raises(UserError, match=r"^cannot write .*no/model.pt \(No such file or directory\); choose"):
        export(ExportConfig(run=str(run), to=str(run / "no" / "model.pt")))


def test_an_empty_name_of_a_run_is_not_the_working_folder() -> None:
    with pytest.raises(UserError, match="run is empty; give a value"):
        ExportConfig(run="")
