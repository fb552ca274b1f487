"""What is wrong with a task for some settings; the rest is tested through the plan."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dni_async.errors import UserError
from launch.engines.registry import ENGINES
from launch.job.data import Data
from launch.job.task_checks import (
    check_labels,
    check_labels_of_batches,
    check_not_lazy,
    check_rows,
    check_shared_weights,
    check_state,
    check_until,
)
from tests.support.tiny_task import Tiny


class Labelled(Tiny):
    classes = 2
    multi_label = True


def labelled(*labels: list[float]) -> TensorDataset:
    return TensorDataset(torch.zeros(len(labels), 3), torch.tensor(labels))


def test_ignored_labels_of_a_multi_label_task_may_have_any_value():
    good = labelled([0.0, 1.0], [-100.0, 1.0])
    assert check_labels(Labelled(), Data(good, good, 2, 0))
    with pytest.raises(
        UserError, match=r"^labels of torch\.float32 from -3\.0 to 4\.0 do not fit a multi-label"
    ):
        check_labels(Labelled(), Data(labelled([-3.0, 4.0]), good, 2, 0))


def test_labels_of_a_multi_label_task_are_checked_batch_by_batch_where_samples_are_read_one_by_one():
    samples: list[tuple[Tensor, Tensor]] = list(labelled([0.0, 1.0], [-100.0, 1.0], [-3.0, 4.0], [0.0, 1.0]))
    data = Data(samples, labelled([0.0, 1.0]), 2, 0)
    check_labels_of_batches(Labelled(), data)
    with pytest.raises(UserError, match=r"from -3\.0 to 4\.0 do not fit a multi-label"):
        list(data.training(1))


class Distance(Tiny):
    metric_name = "distance"


def test_only_an_accuracy_can_be_trained_up_to():
    check_until(Tiny(), 0.9)
    check_until(Distance(), None)
    with pytest.raises(UserError) as error:
        check_until(Distance(), 0.9)
    assert str(error.value) == (
        "until is a test accuracy, and task Distance measures distance; leave --until out"
    )


class Stateful(Tiny):
    carries_state = True


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_carry_state_need_whole_batches_in_their_order(engine):
    check_state(Tiny(), engine)
    if engine in ("decoupled", "backprop", "backprop-all", "copies"):
        check_state(Stateful(), engine)
        return
    with pytest.raises(UserError) as error:
        check_state(Stateful(), engine)
    assert str(error.value) == (
        f"engine {engine} splits batches or layers, and those of Stateful carry state from batch to batch; "
        "use one of decoupled, backprop, backprop-all, copies"
    )


def test_no_batch_of_layers_that_carry_state_can_be_skipped():
    check_state(Tiny(), "decoupled", "skip")
    with pytest.raises(UserError) as error:
        check_state(Stateful(), "decoupled", "skip")
    assert str(error.value) == (
        "on-nonfinite is skip, and layers of Stateful carry state from batch to batch: none can be skipped; "
        "leave it out"
    )


def test_layers_with_state_are_not_supervised():
    check_state(Tiny(), "decoupled", supervise=True)
    with pytest.raises(UserError, match="carry state from batch to batch: theirs would be of another place"):
        check_state(Stateful(), "decoupled", supervise=True)


def test_layers_that_carry_state_are_not_tried_out_ahead() -> None:
    check_state(Tiny(), "decoupled", compiled=True)
    with pytest.raises(UserError, match=r"compile tries layers out, .* leave it out"):
        check_state(Stateful(), "decoupled", compiled=True)


def tied() -> list[nn.Module]:
    """Layers 1 and 3 share a weight."""
    layers = [nn.Linear(4, 4) for _ in range(5)]
    layers[3].weight = layers[1].weight
    return list(layers)


@pytest.mark.parametrize("bounds", [[(0, 5)], [(0, 1), (1, 5)], [(0, 4), (4, 5)], [(0, 1), (1, 4), (4, 5)]])
def test_weights_may_be_shared_within_a_stage(bounds: list[tuple[int, int]]) -> None:
    check_shared_weights(tied(), bounds)


@pytest.mark.parametrize("cut", [2, 3])
def test_weights_shared_across_a_cut_are_refused_with_the_cuts_that_work(cut: int) -> None:
    with pytest.raises(UserError) as error:
        check_shared_weights(tied(), [(0, cut), (cut, 5)])
    assert str(error.value) == (
        f"1.weight and 3.weight are one tensor, and a cut at layer {cut} puts it into several stages, "
        "where it would train apart; cut only at 1, 4 (--cut)"
    )


def test_frozen_weights_may_be_shared_by_several_stages() -> None:
    layers = tied()
    layers[1].weight.requires_grad_(False)
    check_shared_weights(layers, [(0, 2), (2, 5)])


def test_a_module_that_comes_twice_shares_its_buffers_too() -> None:
    norm = nn.BatchNorm1d(4, affine=False)
    layers = [norm, nn.Linear(4, 4), norm]
    with pytest.raises(
        UserError, match=r"0.running_mean and 2.running_mean .*; train in one stage, or untie them$"
    ):
        check_shared_weights(layers, [(0, 1), (1, 3)])


def test_a_view_of_a_weight_is_the_same_tensor() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = nn.Parameter(first.weight.detach().t())
    with pytest.raises(UserError, match=r"0.weight and 1.weight are one tensor"):
        check_shared_weights([first, second], [(0, 1), (1, 2)])


def test_layers_without_shapes_yet_share_nothing() -> None:
    check_shared_weights([nn.LazyLinear(3), nn.LazyLinear(3)], [(0, 1), (1, 2)])


@pytest.mark.parametrize("cut", [[1], [1, 3], []])
def test_layers_between_cuts_may_change_the_number_of_rows(cut: list[int]) -> None:
    check_rows([16, 32, 16, 16], 16, cut)


@pytest.mark.parametrize("cut", [None, [2], [1, 2]])
def test_a_cut_with_another_number_of_rows_than_samples_is_refused(cut: list[int] | None) -> None:
    with pytest.raises(UserError) as error:
        check_rows([16, 32, 16, 16], 16, cut)
    assert str(error.value) == (
        "layer 1 gives 32 rows for 16 samples, and stages exchange a row per sample; "
        "cut where there are as many (--cut), or make one layer of those in between (nn.Sequential)"
    )


def test_lazy_layers_are_refused_with_the_remedy() -> None:
    check_not_lazy([nn.Linear(3, 3), nn.BatchNorm1d(3)])
    for layer in (nn.LazyLinear(3), nn.Sequential(nn.ReLU(), nn.LazyBatchNorm1d())):
        with pytest.raises(UserError) as error:
            check_not_lazy([nn.Linear(3, 3), layer])
        assert str(error.value) == (
            f"layer 1 ({type(layer).__name__}) is lazy, without weights before its first batch; "
            "give the size of its input"
        )
