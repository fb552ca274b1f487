"""Which numbers of micro-batches are possible, and that the fastest is taken."""

import itertools

import pytest
import torch.distributed as dist

from dni_async.errors import UserError
from launch.engines.micro_batches import candidates, check_given, fastest, fitting
from workers.coordination.collectives import Peers
from workers.coordination.rendezvous import Rendezvous


@pytest.mark.parametrize(
    ("rows", "wanted", "count"),
    [(256, 8, 8), (96, 8, 8), (97, 8, 1), (6, 8, 3), (16, 16, 8), (10, 4, 2), (1, 4, 1)],
)
def test_the_fitting_number_of_micro_batches_divides_the_rows(rows, wanted, count):
    assert fitting(rows, wanted) == count


@pytest.mark.parametrize(
    ("rows", "stages", "engine", "counts"),
    [
        (256, 2, "gpipe", [1, 2, 4, 8]),
        (256, 2, "1f1b", [2, 4, 8]),
        (256, 8, "1f1b", [8, 16, 32]),
        (240, 3, "gpipe", [1, 2, 3, 4, 6, 8, 12]),
        (240, 3, "zb", [3, 4, 6, 8, 12]),
        (256, 8, "zb", [8, 16, 32]),
        (256, 3, "zb", [4, 8]),
        (64, 64, "1f1b", [64]),  # single rows, when there is no other way
        (64, 32, "1f1b", [32]),
        (35, 2, "1f1b", [5]),  # none of the usual counts divides
        (31, 2, "gpipe", [1]),
    ],
)
def test_the_numbers_of_micro_batches_to_try_are_listed(rows, stages, engine, counts):
    assert candidates(rows, stages, engine) == counts


@pytest.mark.parametrize("engine", ["1f1b", "zb"])
def test_a_batch_with_fewer_rows_than_stages_cannot_be_cut(engine):
    with pytest.raises(UserError, match="3 rows cannot be cut into 4 or more equal micro-batches"):
        candidates(3, 4, engine)


@pytest.mark.parametrize(
    ("count", "rows", "engine", "words"),
    [
        (5, 16, "gpipe", "must divide the batch of 16 rows, such as 4"),
        (2, 16, "1f1b", "1f1b takes at least one per stage, that is 3"),
        (2, 16, "zb", "zb takes at least one per stage, that is 3"),
        (10, 40, "zb", "in 3 rounds of equal size, so use a multiple of the 3 stages"),
    ],
)
def test_an_impossible_number_of_micro_batches_is_refused(count, rows, engine, words):
    with pytest.raises(UserError, match=words):
        check_given(count, rows, 3, engine)
    check_given(4, 16, 3, engine)


def test_the_number_of_micro_batches_with_the_fastest_round_is_chosen():
    times = {
        2: [9.0, 3.0, 3.0, 9.0, 9.0, 9.0, 9.0],
        4: [9.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0],
        8: [1.0] + [4.0] * 6,
    }
    now, left = [0.0], {count: iter(many) for count, many in times.items()}

    def step(count):
        now[0] += next(left[count])

    steps = {count: lambda count=count: step(count) for count in times}
    alone = Peers(Rendezvous(0, 1, 0, 1, dist.HashStore()))
    assert fastest(steps, alone, lambda: now[0]) == 4
    assert all(next(rest, None) is None for rest in left.values())


def test_a_single_candidate_is_not_measured():
    alone = Peers(Rendezvous(0, 1, 0, 1, dist.HashStore()))
    assert fastest({3: lambda: 1 / 0}, alone, lambda: next(itertools.count())) == 3
