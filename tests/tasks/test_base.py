from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dni_async.errors import UserError
from tasks.base import Task, seed_everything


class Regression(Task):
    def layers(self) -> list[nn.Module]:
        return [nn.Linear(2, 2)]

    def data(self, root: Path | None) -> tuple[Dataset, Dataset]:
        raise NotImplementedError


class Classification(Regression):
    classes = 3


OUTPUT = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_layers_and_data_must_be_written() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Task()  # type: ignore[abstract]


def test_a_task_is_named_after_its_class_and_has_nothing_to_note() -> None:
    assert (Classification().name, Classification().note) == ("Classification", None)
    assert not Classification().metadata and not Classification().carries_state


def test_classes_are_scored_by_cross_entropy_and_accuracy() -> None:
    task, y = Classification(), torch.tensor([0, 1])
    expected = -OUTPUT.log_softmax(1)[[0, 1], y].mean()
    torch.testing.assert_close(task.loss(OUTPUT, y), expected)
    assert task.metric(OUTPUT, y).tolist() == [1.0, 0.0]
    assert task.metric_name == "accuracy" and task.reported(0.25) == 0.25


def test_classes_are_seen_one_hot() -> None:
    seen = Classification().condition(torch.tensor([2, 0]))
    assert seen.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert seen.dtype == torch.float32


def test_real_values_are_scored_by_their_squared_error() -> None:
    task, y = Regression(), torch.zeros(2, 3)
    assert task.loss(OUTPUT, y).item() == pytest.approx(5 / 6)
    assert task.metric(OUTPUT, y).tolist() == pytest.approx([-4 / 3, -1 / 3])
    assert task.metric_name == "negative squared error"


def test_a_metric_of_the_users_own_has_the_name_that_the_task_gives_it() -> None:
    class Own(Regression):
        def metric(self, output: Tensor, y: Tensor) -> Tensor:
            return output[:, 0]

    class Named(Own):
        metric_name = "r2"

    assert (Own().metric_name, Named().metric_name) == ("metric", "r2")


def test_real_values_are_seen_as_they_are_and_flat() -> None:
    y = torch.arange(8, dtype=torch.float64).reshape(2, 2, 2)
    seen = Regression().condition(y)
    assert seen.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert seen.dtype == torch.float32


def test_the_same_seed_makes_the_same_layers() -> None:
    made = []
    for _ in range(2):
        seed_everything(5)
        made.append(nn.Linear(3, 3).weight)
    assert torch.equal(*made)


def test_the_same_seed_makes_numpy_and_python_draw_the_same() -> None:
    drawn = []
    for _ in range(2):
        seed_everything(5)
        drawn.append((numpy.random.rand(), random.random()))
    assert drawn[0] == drawn[1]


IGNORED = -100


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_class_labels_may_be_whole_numbers_of_any_type(dtype: torch.dtype) -> None:
    task, y = Classification(), torch.tensor([2, 0])
    assert torch.equal(task.loss(OUTPUT, y.to(dtype)), task.loss(OUTPUT, y))
    assert task.metric(OUTPUT, y.to(dtype)).tolist() == [0.0, 0.0]
    assert torch.equal(task.condition(y.to(dtype)), task.condition(y))


def test_the_loss_and_score_of_labels_per_position_are_those_of_all_positions() -> None:
    task = Classification()
    output, y = torch.randn(2, 4, 3), torch.tensor([[0, 1, 2, 0], [1, 1, IGNORED, IGNORED]])
    rows, labels = torch.cat([output[0], output[1, :2]]), torch.tensor([0, 1, 2, 0, 1, 1])
    torch.testing.assert_close(task.loss(output, y), task.loss(rows, labels))
    assert task.metric(output, y).tolist() == task.metric(rows, labels).tolist()
    classes_second = output.movedim(-1, 1)  # (B, classes, T), torch's layout
    torch.testing.assert_close(task.loss(classes_second, y), task.loss(output, y))
    assert torch.equal(task.metric(classes_second, y), task.metric(output, y))


def test_outputs_that_do_not_fit_class_labels_are_refused_in_one_line() -> None:
    with pytest.raises(UserError) as error:
        Classification().loss(torch.zeros(2, 4, 3), torch.zeros(2, 5, dtype=torch.long))
    assert str(error.value) == (
        "outputs (2, 4, 3) do not fit class labels (2, 5); give outputs (B, ..., classes) for labels (B, ...)"
    )


@pytest.mark.parametrize("shape", [(2,), (2, 4)])
def test_a_batch_of_ignored_labels_has_a_loss_of_zero_and_no_scores(
    shape: tuple[int, ...],
) -> None:
    task, output = Classification(), torch.randn(*shape, 3, requires_grad=True)
    y = torch.full(shape, IGNORED)
    loss = task.loss(output, y)
    loss.backward()
    assert loss.item() == 0 and output.grad is not None and not output.grad.any()
    assert task.metric(output, y).shape == (0,)


def test_a_loss_that_is_not_a_number_is_not_hidden() -> None:
    output = torch.full((2, 3), float("nan"))
    assert Classification().loss(output, torch.tensor([0, IGNORED])).isnan()


@pytest.mark.parametrize("ignored", [-100, 1, 255])
def test_an_ignored_label_is_seen_as_a_row_of_zeros(ignored: int) -> None:
    class Padded(Classification):
        ignore_index = ignored

    seen = Padded().condition(torch.tensor([[2, ignored], [ignored, 0]]))
    assert seen.tolist() == [[[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
@pytest.mark.parametrize("ignored", [-100, 1])
def test_class_indices_are_minus_one_where_a_label_is_ignored(ignored: int, dtype: torch.dtype) -> None:
    class Padded(Classification):
        ignore_index = ignored

    found = Padded().class_indices(torch.tensor([[2, ignored], [ignored, 0]], dtype=dtype))
    assert found.tolist() == [[2, -1], [-1, 0]] and found.dtype == torch.int64


class TestBatch:
    x, mask, y = torch.zeros(4, 2), torch.ones(4, 2), torch.arange(4)

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_the_last_of_several_is_the_target(self, kind: type) -> None:
        task = Classification()
        assert task.batch(kind([self.x, self.y])) == (self.x, self.y)
        inputs, targets = task.batch(kind([self.x, self.mask, self.y]))
        assert isinstance(inputs, tuple) and inputs[0] is self.x and inputs[1] is self.mask
        assert targets is self.y

    @pytest.mark.parametrize("name", ["labels", "label"])
    def test_the_labels_of_a_dict_are_the_target(self, name: str) -> None:
        inputs, targets = Classification().batch({"ids": self.x, name: self.y, "mask": self.mask})
        assert list(inputs) == ["ids", "mask"] and targets is self.y

    @pytest.mark.parametrize(
        "samples", [x, (x,), {"ids": x}, {"labels": x}], ids=["tensor", "one", "no labels", "no inputs"]
    )
    def test_without_targets_the_line_says_what_to_do(self, samples: object) -> None:
        with pytest.raises(UserError, match=r'a batch of task Classification is .*; give samples .*"labels"'):
            Classification().batch(samples)


class Several(Classification):
    multi_label = True


class TestMultiLabel:
    def test_the_loss_is_binary_cross_entropy(self) -> None:
        output, y = torch.randn(4, 3), torch.rand(4, 3).round()
        wanted = F.binary_cross_entropy_with_logits(output, y)
        assert Several().loss(output, y).item() == pytest.approx(wanted.item())

    def test_ignored_labels_count_for_nothing(self) -> None:
        output, y = torch.randn(4, 3), torch.rand(4, 3).round()
        counts = torch.rand(4, 3) < 0.5
        task, given = Several(), torch.where(counts, y, -100.0)
        wanted = F.binary_cross_entropy_with_logits(output[counts], y[counts])
        assert task.loss(output, given).item() == pytest.approx(wanted.item())
        assert torch.equal(task.metric(output, given), ((output > 0) == (y > 0.5))[counts].float())
        assert torch.equal(task.condition(given), torch.where(counts, y, 0.0))
        nothing = torch.full_like(y, -100.0)
        assert task.loss(output.requires_grad_(), nothing).item() == 0

    def test_the_metric_is_the_share_of_labels_that_are_right(self) -> None:
        output, y = torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        assert Several().metric(output, y).tolist() == [1, 1, 0, 1]
        assert Several().metric_name == "accuracy"

    def test_outputs_and_labels_must_be_alike(self) -> None:
        with pytest.raises(UserError, match=r"outputs \(4, 3\) and targets \(4, 2\) differ"):
            Several().loss(torch.zeros(4, 3), torch.zeros(4, 2))


def test_the_default_loss_takes_no_trees() -> None:
    with pytest.raises(UserError, match=r"outputs are \{a: tensor\} and targets a tensor; write `loss` and"):
        Classification().loss({"a": torch.zeros(4, 3)}, torch.zeros(4))


def test_valid_and_condition_of_several_targets_are_those_of_the_first() -> None:
    y = {"first": torch.tensor([0, -100, 2]), "second": torch.zeros(3)}
    assert Classification().valid(y).tolist() == [True, False, True]
    assert torch.equal(Classification().condition(y), torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.0]]))
