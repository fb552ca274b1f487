from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dni_async.errors import UserError
from tests.support.channels import TEST_TIMEOUT_S
from tests.support.children import Child
from workers.coordination import collectives
from workers.coordination.collectives import Peers, process_group, shared_gpus, start_group
from workers.coordination.rendezvous import Rendezvous
from workers.failure.rank_runner import RankRunner


def ranks(world: int) -> list[Rendezvous]:
    """All ranks of a job, in one process."""
    store = dist.HashStore()
    return [Rendezvous(rank, world, rank, world, store) for rank in range(world)]


def test_a_single_rank_makes_no_process_group() -> None:
    with process_group(ranks(1)[0], 1.0, torch.device("cpu")) as peers:
        assert not dist.is_initialized()
        assert peers.gather("mine") == peers.latest("mine") == ["mine"]
        assert peers.broadcast({"value": 1}) == {"value": 1}
        assert peers.gone() == []


def test_rank_0_gets_the_newest_values_once_all_ranks_have_sent_some() -> None:
    first, second, third = (Peers(rank) for rank in ranks(3))
    assert first.latest(0) is None
    assert second.latest({"steps": 1}) is third.latest({"steps": 2}) is None
    assert first.latest("mine") == ["mine", {"steps": 1}, {"steps": 2}]
    second.latest({"steps": 9})
    assert first.latest("mine") == ["mine", {"steps": 9}, {"steps": 2}]


@pytest.mark.parametrize(
    ("missing", "words"), [("is_gloo_available", "no gloo"), ("is_available", "no gloo")]
)
def test_without_gloo_the_error_says_what_to_do(
    missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, missing, lambda: False)
    with pytest.raises(UserError, match=words):
        start_group(ranks(2)[0], 1.0, torch.device("cpu"))


def test_without_nccl_a_group_for_tensors_on_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(UserError, match="no NCCL"):
        start_group(ranks(2)[0], 1.0, torch.device("cuda"))


class Gpu:
    def __init__(self, uuid: str) -> None:
        self.identity = lambda: uuid


@pytest.mark.parametrize(("uuids", "shared"), [("ab", False), ("aa", True), ("abca", True)])
def test_ranks_share_a_gpu_where_its_uuid_is_the_same_whatever_its_number(
    uuids: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = ranks(len(uuids))
    for rank, uuid in zip(everybody[1:], uuids[1:], strict=True):
        rank.publish(f"gpus/{rank.rank}", uuid)
    monkeypatch.setattr(collectives, "accelerator_of", lambda device: Gpu(uuids[0]))
    assert shared_gpus(everybody[0], torch.device("cuda", 0), 5.0) is shared


@pytest.mark.parametrize(("uuids", "backends"), [("ab", "cpu:gloo,cuda:nccl"), ("aa", "gloo")])
def test_nccl_is_only_for_ranks_with_a_gpu_each(
    uuids: str, backends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ranks(2)
    second.publish("gpus/1", uuids[1])
    asked: list[str] = []
    monkeypatch.setattr(collectives, "accelerator_of", lambda device: Gpu(uuids[0]))
    monkeypatch.setattr(Rendezvous, "gather_hosts", lambda self, timeout: [])
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **settings: asked.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with process_group(first, 5.0, torch.device("cuda", 0)) as peers:
        assert asked == [backends]
        assert peers.through_host is (backends == "gloo")


def start_alone_and_be_stopped(runner: RankRunner, mouth: Connection) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
    start_group(Rendezvous(0, 2, 0, 2, store), TEST_TIMEOUT_S, torch.device("cpu"))


def test_a_rank_hears_sigterm_while_gloo_waits_for_the_others(tmp_path: Path) -> None:
    begin = time.monotonic()
    with Child(start_alone_and_be_stopped, tmp_path) as child:
        assert child.status() == 128 + signal.SIGTERM
        assert time.monotonic() - begin < TEST_TIMEOUT_S
        assert len(child.lines()) == 1
