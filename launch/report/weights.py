"""Trained weights on disk: every stage writes its own part, together they fit the uncut network.

weights/stage-0.safetensors   0.weight, 0.bias, 1.weight ...      names as in nn.Sequential(*layers)
weights/stage-1.safetensors   4.weight ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from dni_async.errors import UserError
from dni_async.partition.module_layer import uncut_names
from dni_async.state.checkpoint import averages, uncut
from dni_async.state.state_dict import copied, renumbered
from launch.engines.registry import find_engine
from workers.checkpoint.atomic_file import write_whole
from workers.checkpoint.store import CheckpointStore


def save_part(folder: Path, stage: int, first_layer: int, layers: nn.Module) -> None:
    """Write the weights of one stage whose first layer is number `first_layer` of the network."""
    folder = folder / "weights"
    folder.mkdir(exist_ok=True)
    path = folder / f"stage-{stage}.safetensors"
    path.unlink(missing_ok=True)  # parts of two runs would fit each other
    state = copied(renumbered(layers.state_dict(), first_layer))
    data = save({name: tensor.contiguous() for name, tensor in state.items()})
    write_whole(path, data)


def load_all(folder: Path, stages: int) -> dict[str, Tensor]:
    """The `state_dict` of `nn.Sequential(*task.layers())`, from the parts of all stages."""
    state: dict[str, Tensor] = {}
    for stage in range(stages):
        path = folder / "weights" / f"stage-{stage}.safetensors"
        if not path.exists():
            raise UserError(f"weights of stage {stage} are missing ({path}); was the run finished?")
        state |= load_file(path)
    return state


def uncut_weights_of(run: Path, step: int | None = None) -> tuple[dict[str, Tensor], str]:
    """Like `weights_of`, with the names in the uncut network: those of a model from which layers were split
    off (`dni_async.from_module`), else those in `nn.Sequential(*task.layers())`."""
    state, source = weights_of(run, step)
    names = uncut_names(state, _module_layers(run, step))
    return {names[name]: tensor for name, tensor in state.items()}, source


def _module_layers(run: Path, step: int | None) -> list[int]:
    checkpoints = CheckpointStore(run)
    if not checkpoints.steps():
        return list(json.loads((run / "summary.json").read_text(encoding="utf-8")).get("module_layers", []))
    manifest = checkpoints.newest()[0] if step is None else checkpoints.manifest(step)
    return manifest.settings.get("module_layers", []) if manifest else []


def weights_of(run: Path, step: int | None = None) -> tuple[dict[str, Tensor], str]:
    """The weights of a run by their names in `nn.Sequential(*task.layers())`, and where they are from."""
    checkpoints = CheckpointStore(run)
    if step is not None and step not in checkpoints.steps():
        known = ", ".join(map(str, checkpoints.steps())) or "no step"
        raise UserError(f"no checkpoint of step {step} in {checkpoints.folder}; there is one of {known}")
    if not checkpoints.steps():
        return _finished(run), "the end of the run"
    if step is None:
        manifest, refused = checkpoints.newest()
        for reason in refused:
            print(f"dni-async: {reason}; it is not used", file=sys.stderr)
        if manifest is None:
            raise UserError(f"no checkpoint in {checkpoints.folder} can be used")
    else:
        manifest = checkpoints.manifest(step)
    parts = {i: checkpoints.read_part(manifest, i) for i in range(len(manifest.bounds))}
    source = f"the checkpoint of step {manifest.step}"
    if step is None and all(part.get("best") for part in parts.values()):
        at = parts[0]["patience"]["best_at"]
        return uncut(parts, manifest.bounds, "best"), f"the best weights, of step {at}, from {source}"
    average = averages(parts, manifest.bounds)
    return uncut(parts, manifest.bounds) | average, f"the averages in {source}" if average else source


def _finished(run: Path) -> dict[str, Tensor]:
    """The weights that a run without checkpoints left at its end."""
    summary = run / "summary.json"
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
        stages = len(content["stages"]) if find_engine(content["settings"]["engine"]).cut else 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"nothing to export here ({run} has no checkpoint and no summary.json); give the --out of a run"
        ) from error
    return load_all(run, stages)
