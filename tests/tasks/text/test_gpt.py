"""The task of a small GPT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni_async.errors import UserError
from dni_async.parameter_groups import numbered, parameter_groups
from launch.config.command_line import parse
from launch.config.train import TrainConfig
from launch.job.task_checks import check_scores
from tasks.text.gpt import CharGpt, windows

TEXT = "to be or not to be, that is the question. " * 30
SYMBOLS = len(set(TEXT))


def task(folder: Path, text: str = TEXT, **settings: Any) -> CharGpt:
    """Has read its data."""
    (folder / "text").write_text(text)
    made = CharGpt(
        text=str(folder / "text"), **{"width": 8, "heads": 2, "context": 16, "depth": 2} | settings
    )
    made.data(None)
    return made


def test_windows_lie_side_by_side_and_are_followed_by_their_next_symbols() -> None:
    x, y = windows(torch.arange(11), 3).tensors
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert y.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    ("count", "starts"), [(1, [0]), (2, [0, 7]), (3, [0, 4, 7]), (8, [0, 1, 2, 3, 4, 5, 6, 7])]
)
def test_a_number_of_windows_lies_at_equal_distances(count: int, starts: list[int]) -> None:
    x, y = windows(torch.arange(11), 3, count).tensors
    assert x[:, 0].tolist() == starts
    assert torch.equal(x + 1, y)


def test_a_text_that_is_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    assert len(windows(torch.arange(5), 4)) == 1
    with pytest.raises(UserError, match=r"a text of 4 symbols has no window of 4 .* smaller context"):
        windows(torch.arange(4), 4)
    with pytest.raises(UserError, match="smaller context"):
        task(tmp_path, context=2000)


def test_training_validation_and_test_text_do_not_overlap(tmp_path: Path) -> None:
    gpt = task(tmp_path, text="".join(map(chr, range(200, 600))), context=9)
    train, test = (set(part.tensors[0].flatten().tolist()) for part in gpt.data(None))
    validation = set(gpt.validation(None).tensors[0].flatten().tolist())
    assert not train & test and not train & validation and not test & validation


def test_the_size_of_the_vocabulary_is_known_to_processes_without_the_data(tmp_path: Path) -> None:
    gpt, other = task(tmp_path), CharGpt()
    assert other.classes is None
    other.metadata = gpt.metadata
    assert other.classes == gpt.classes == SYMBOLS
    assert gpt.layers()[-1][-1].out_features == SYMBOLS  # type: ignore[index]


def test_the_loss_is_the_mean_over_symbols_and_the_metric_each_of_them(tmp_path: Path) -> None:
    gpt = task(tmp_path)
    x, y = gpt.data(None)[1][:3]
    y = y.clone()
    y[0, :5] = gpt.ignore_index
    output = nn.Sequential(*gpt.layers())(x)
    each = F.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)[y >= 0]
    scores = gpt.metric(output, y)
    assert scores.shape == (3 * 16 - 5,)
    torch.testing.assert_close(scores, each)
    torch.testing.assert_close(gpt.loss(output, y), each.mean())
    assert gpt.metric_name == "bits_per_char"
    assert gpt.reported(math.log(8)) == pytest.approx(3)


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    """Here outputs (B, T, V) = (3, 16, 15) could be taken for 16 classes at each of 15 positions."""
    assert SYMBOLS == 15
    gpt = task(tmp_path)
    x, y = gpt.data(None)[1][:3]
    output = nn.Sequential(*gpt.layers())(x)
    with pytest.raises(UserError, match=r"outputs \(3, 16, 15\) do not fit class labels \(3, 15\)"):
        gpt.loss(output, y[:, :-1])
    with pytest.raises(UserError, match=r"loss does not take .* do not fit class labels \(3, 15\)"):
        check_scores(gpt, output, y[:, :-1])


def test_rope_replaces_learned_positions(tmp_path: Path) -> None:
    learned, rotary = (nn.Sequential(*task(tmp_path, rope=rope).layers()) for rope in (False, True))
    assert set(learned.state_dict()) - set(rotary.state_dict()) == {"0.positions.weight"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 10, "heads": 4}, "width=10 cannot be divided into heads=4;"),
        ({"width": 12, "heads": 4, "rope": True}, "width=12 cannot be divided into heads=4 of an even width"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"context": 0}, "context is 0; it must be at least 1"),
        ({"windows": -1}, "windows is -1; it must be at least 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        CharGpt(**settings)


def test_by_default_weight_decay_is_for_matrices_but_not_for_embeddings(tmp_path: Path) -> None:
    optimizer = parse(TrainConfig, "launch.train", ["--task", "gpt-char"]).optimizer
    assert (optimizer.name, optimizer.schedule, optimizer.warmup) == ("adamw", "cosine", 0.05)
    network = nn.Sequential(*task(tmp_path).layers())
    groups = optimizer.factory()(parameter_groups(numbered(network), optimizer.group_settings())).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    matrices = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    assert decayed == matrices
    assert all(group["weight_decay"] == 0 for group in groups if id(group["params"][0]) not in decayed)
