from __future__ import annotations

import json
import os
from collections.abc import Iterator

import psutil
import pytest
import torch

from dni_async.errors import UserError
from workers.runtime import device
from workers.runtime.device import Placement, pick_device, place, share_of_cores

needs_affinity = pytest.mark.skipif(not hasattr(psutil.Process(), "cpu_affinity"), reason="no affinity here")


@pytest.mark.parametrize(
    ("cores", "ranks", "shares"),
    [
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3]]),
        ([0, 1, 2, 3], 1, [[0, 1, 2, 3]]),
        ([0, 1, 2, 3], 4, [[0], [1], [2], [3]]),
        ([3, 5, 8, 9], 2, [[3, 5], [8, 9]]),
        ([0, 1, 2, 3, 4], 7, [[0], [1], [2], [3], [4], [0], [1]]),
        ([6], 3, [[6], [6], [6]]),
    ],
)
def test_cores_are_shared_between_the_ranks(cores: list[int], ranks: int, shares: list[list[int]]) -> None:
    assert [share_of_cores(cores, rank, ranks) for rank in range(ranks)] == shares


@pytest.fixture
def allowed() -> Iterator[list[int]]:
    """The cores this process may use; they and the threads are as before at the end."""
    process, threads = psutil.Process(), torch.get_num_threads()
    cores = process.cpu_affinity()
    yield sorted(cores)
    process.cpu_affinity(cores)
    torch.set_num_threads(threads)


@needs_affinity
def test_threads_of_one_core_count_as_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= device.physical_cores() <= len(psutil.Process().cpu_affinity())
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda process: [0, 1, 2, 3, 4])
    monkeypatch.setattr(device, "_siblings", lambda cpu: f"{cpu % 3},{cpu % 3 + 3}")
    assert device.physical_cores() == 3


@needs_affinity
class TestPlace:
    def test_a_process_is_bound_to_its_share_with_one_thread_per_core(self, allowed: list[int]) -> None:
        ranks = len(allowed)
        placement = place("cpu", 0, ranks - 1, ranks)
        assert placement == Placement(torch.device("cpu"), 1, [allowed[-1]], alone=True)
        assert psutil.Process().cpu_affinity() == [allowed[-1]]
        assert torch.get_num_threads() == 1

    def test_one_rank_has_all_cores(self, allowed: list[int]) -> None:
        assert place("cpu", 0, 0, 1) == Placement(torch.device("cpu"), len(allowed), allowed, alone=True)
        assert torch.get_num_threads() == len(allowed)

    def test_more_ranks_than_cores_are_not_alone(self, allowed: list[int]) -> None:
        assert not place("cpu", 1, 0, len(allowed) + 1).alone

    def test_more_threads_than_its_share_leave_it_unbound(self, allowed: list[int]) -> None:
        share = len(share_of_cores(allowed, 0, 2))
        placement = place("cpu", share + 1, 0, 2)
        assert not placement.alone
        assert (placement.threads, placement.cores) == (share + 1, allowed)
        assert sorted(psutil.Process().cpu_affinity()) == allowed
        assert torch.get_num_threads() == share + 1

    def test_as_many_threads_as_were_asked_for(self, allowed: list[int]) -> None:
        placement = place("cpu", 1, 0, 1)
        assert (placement.threads, placement.cores) == (1, allowed)
        assert torch.get_num_threads() == 1


def test_without_affinity_there_is_one_thread_and_no_core(
    allowed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    try:
        assert place("cpu", 0, 0, 2) == Placement(torch.device("cpu"), 1, [])
    finally:
        monkeypatch.undo()


def test_a_placement_describes_itself_in_json() -> None:
    placement = Placement(torch.device("cuda", 1), 2, [4, 5])
    assert json.loads(json.dumps(placement.describe())) == {
        "device": "cuda:1",
        "threads": 2,
        "cores": [4, 5],
        "alone": False,
    }


class TestPickDevice:
    @pytest.fixture
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
        """Two GPUs that are not there; what was made the current one."""
        chosen: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    def test_cuda_where_there_is_none_is_the_users_to_mend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="torch sees none here; use --device cpu"):
            pick_device("cuda", 0)

    def test_an_unknown_device_is_the_users_to_mend(self) -> None:
        with pytest.raises(UserError, match=r"unknown device \(tpu\); use cpu or cuda"):
            pick_device("tpu", 0)

    def test_the_cpu_is_chosen_by_name(self, gpus: list[torch.device]) -> None:
        assert pick_device("cpu", 3) == torch.device("cpu")
        assert gpus == []

    def test_ranks_take_the_gpus_in_turn(self, gpus: list[torch.device]) -> None:
        wanted = [torch.device("cuda", index) for index in (0, 1, 0)]
        assert [pick_device("cuda", rank) for rank in range(3)] == wanted
        assert gpus == wanted


class TestArithmeticOfAGpu:
    @pytest.fixture(autouse=True)
    def restored(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        cudnn = torch.backends.cudnn
        before = cudnn.deterministic, cudnn.benchmark, torch.get_float32_matmul_precision()
        cudnn.benchmark = True
        yield
        torch.use_deterministic_algorithms(False)
        cudnn.deterministic, cudnn.benchmark = before[:2]
        torch.set_float32_matmul_precision(before[2])

    def test_is_deterministic_if_it_shall_be(self) -> None:
        device.make_deterministic("cuda")
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)

    def test_keeps_the_workspace_that_the_user_has_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        device.make_deterministic("cuda")
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"

    def test_is_tf32_if_it_may_be(self) -> None:
        device.allow_tf32("cuda")
        assert torch.get_float32_matmul_precision() == "high"

    def test_of_the_cpu_stays_as_it_is(self) -> None:
        device.make_deterministic("cpu")
        device.allow_tf32("cpu")
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == "highest"
