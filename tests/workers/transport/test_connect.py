from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dni_async.errors import StageError
from dni_async.messages import Activation, Marker, MarkerKind, TargetGradient
from tests.support.channels import TEST_TIMEOUT_S
from tests.support.children import Child
from workers.coordination import rendezvous as rendezvous_module
from workers.coordination.rendezvous import Rendezvous
from workers.failure.rank_runner import RankRunner
from workers.transport.connect import Links, agree_on_transports, open_links
from workers.transport.shm_receiver import ShmReceiver
from workers.transport.shm_sender import ShmSender

CPU = torch.device("cpu")


def in_threads(world: int, rank_does: Callable[[Rendezvous], object]) -> list[object]:
    """What each rank returns; the ranks are threads that share a store."""
    store, found = dist.HashStore(), [None] * world

    def body(rank: int) -> None:
        try:
            found[rank] = rank_does(Rendezvous(rank, world, rank, world, store))
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    assert not any(thread.is_alive() for thread in threads), found
    return found


class TestAgreement:
    @pytest.fixture(autouse=True)
    def interfaces(self, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
        """The variables that say where gloo and rpc listen are as before at the end."""
        for backend in ("GLOO", "TP"):
            monkeypatch.setenv(f"{backend}_SOCKET_IFNAME", "")
            monkeypatch.delenv(f"{backend}_SOCKET_IFNAME")
        return monkeypatch

    def test_all_ranks_choose_alike(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hosts = iter(["here", "here", "there"])
        lock = threading.Lock()

        def next_host() -> str:
            with lock:
                return next(hosts)

        monkeypatch.setattr(rendezvous_module, "host_identity", next_host)
        chosen = in_threads(3, lambda me: agree_on_transports(me, "auto", TEST_TIMEOUT_S)[0])
        assert chosen[0] == chosen[1] == chosen[2]
        assert set(chosen[0]) <= {"shm", "tcp"} and "tcp" in chosen[0]  # type: ignore[call-overload, operator]
        assert "GLOO_SOCKET_IFNAME" not in os.environ

    def test_ranks_of_one_host_need_only_its_loopback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TP_SOCKET_IFNAME", "lo,eth9")
        assert in_threads(2, lambda me: agree_on_transports(me, "auto", TEST_TIMEOUT_S)[0]) == [
            ["shm"],
            ["shm"],
        ]
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
        assert os.environ["TP_SOCKET_IFNAME"] == "lo,eth9"  # the user knows better

    def test_a_rank_that_does_not_come_is_given_up_at_the_deadline(self) -> None:
        alone = Rendezvous(0, 2, 0, 2, dist.HashStore())
        with pytest.raises(StageError, match=r"rank 0 waited 0\.1 s for 'host/1' from another rank"):
            agree_on_transports(alone, "auto", 0.1)


def greet(me: Rendezvous, links: Links) -> list[object]:
    """Send one message to each neighbour; what came from them."""
    if links.downstream:
        h = torch.full((2, 3), float(me.rank))
        links.downstream.sender.send(Activation(me.rank, 0, h, torch.arange(2)), TEST_TIMEOUT_S)
    if links.upstream:
        grad = torch.full((4,), 10.0 * me.rank)
        links.upstream.sender.send(TargetGradient(me.rank, 0, grad), TEST_TIMEOUT_S)
    heard: list[object] = []
    for link in (links.upstream, links.downstream):
        if link is None:
            heard.append(None)
            continue
        message = link.receiver.recv(TEST_TIMEOUT_S)
        tensor = message.h if isinstance(message, Activation) else message.grad
        heard.append((type(message).__name__, message.step, tensor.flatten().tolist()))
        link.receiver.release()
    return heard


def shm_rank(me: Rendezvous) -> list[object]:
    with open_links(me, ["shm"] * (me.world - 1), 1, TEST_TIMEOUT_S, CPU) as links:
        return greet(me, links)


MIDDLE_OF_THREE = [
    [None, ("TargetGradient", 1, [10.0] * 4)],
    [("Activation", 0, [0.0] * 6), ("TargetGradient", 2, [20.0] * 4)],
    [("Activation", 1, [1.0] * 6), None],
]


class TestShm:
    def test_every_pair_of_neighbours_talks_both_ways(self) -> None:
        assert in_threads(3, shm_rank) == MIDDLE_OF_THREE

    def test_between_processes(self, tmp_path: Path) -> None:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
        job["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        with ExitStack() as stack:
            children = [
                stack.enter_context(Child(a_shm_rank, tmp_path / str(rank), RANK=str(rank), **job))
                for rank in (0, 1)
            ]
            heard = [child.hear() for child in children]
            assert [child.status() for child in children] == [0, 0]
        assert heard == [[None, ("TargetGradient", 1, [10.0] * 4)], [("Activation", 0, [0.0] * 6), None]]

    def test_a_single_stage_has_no_links(self) -> None:
        with open_links(Rendezvous(0, 1, 0, 1, dist.HashStore()), [], 2, 1.0, CPU) as links:
            assert links == Links(None, None)

    def test_channels_have_the_requested_capacity_and_peers(self) -> None:
        barrier = threading.Barrier(2, timeout=TEST_TIMEOUT_S)

        def rank_does(me: Rendezvous) -> object:
            with open_links(me, ["shm"], 3, TEST_TIMEOUT_S, CPU) as links:
                link = links.downstream or links.upstream
                assert link is not None
                assert isinstance(link.sender, ShmSender) and isinstance(link.receiver, ShmReceiver)
                count = 0
                while link.sender.ready():
                    link.sender.send(Marker(MarkerKind.REPORT, count, 0), 0.0)
                    count += 1
                barrier.wait()
                return link.sender.peer, link.receiver.peer, count

        assert in_threads(2, rank_does) == [(1, 1, 3), (0, 0, 3)]

    def test_channels_are_closed_at_the_end(self) -> None:
        def rank_does(me: Rendezvous) -> object:
            with open_links(me, ["shm"], 1, TEST_TIMEOUT_S, CPU) as links:
                link = links.downstream or links.upstream
                assert link is not None
            return [link.sender.fileno(), link.receiver.fileno()]

        assert in_threads(2, rank_does) == [[-1, -1], [-1, -1]]

    def test_a_neighbour_that_does_not_come_is_given_up_at_the_deadline(self, tmp_path: Path) -> None:
        with Child(a_lonely_rank, tmp_path) as child:
            assert child.status() == 1
            assert child.lines() == ["dni-async: rank 1 waited 0.1 s for 'shm/1-0' from another rank"]


def a_shm_rank(runner: RankRunner, mouth: Connection) -> None:
    mouth.send(shm_rank(runner.join(TEST_TIMEOUT_S)))


def a_lonely_rank(runner: RankRunner, mouth: Connection) -> None:
    with open_links(Rendezvous(1, 2, 1, 2, dist.HashStore()), ["shm"], 1, 0.1, CPU):
        raise AssertionError("nobody is there")
