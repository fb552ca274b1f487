from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, SimpleNamespace

import pytest
import torch.distributed as dist

from dni_async.errors import Late, StageError
from tests.support.channels import TEST_TIMEOUT_S
from tests.support.children import Child
from tests.support.jobs import ROOT
from workers.coordination.rendezvous import Rendezvous, host_identity
from workers.failure.rank_runner import RankRunner


def ranks(world: int) -> list[Rendezvous]:
    """All ranks of a job, in one process."""
    store = dist.HashStore()
    return [Rendezvous(rank, world, rank, world, store) for rank in range(world)]


class TestAlone:
    def test_without_torchruns_variables_a_process_is_the_only_rank(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RANK", raising=False)
        alone = Rendezvous.from_env(1.0)
        assert (alone.rank, alone.world, alone.local_rank, alone.local_world) == (0, 1, 0, 1)
        alone.publish("key", {"a": [1, None, 2.5, "ü"]})
        assert alone.read("key", 1.0) == {"a": [1, None, 2.5, "ü"]}
        assert alone.claim("failure")


class TestTheStore:
    def test_what_one_rank_publishes_another_reads(self) -> None:
        first, second = ranks(2)
        first.publish("plan", [[0, 2], [2, 4]])
        assert second.read("plan", 1.0) == [[0, 2], [2, 4]]

    def test_all_gather_returns_the_values_of_all_ranks(self) -> None:
        first, second = ranks(2)
        with pytest.raises(Late, match="'word/1' from another rank"):
            first.all_gather("word", "a", 0.05)
        assert second.all_gather("word", "b", 1.0) == first.all_gather("word", "a", 1.0) == ["a", "b"]

    def test_a_signal_interrupts_a_rank_that_waits_for_the_store(self) -> None:
        """In the store's own wait it would be heard at the deadline."""

        class Heard(Exception):
            pass

        def hear(signum: int, frame: FrameType | None) -> None:
            raise Heard

        before = signal.signal(signal.SIGUSR1, hear)
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        asks = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGUSR1])
        try:
            asks.start()
            start = time.monotonic()
            with pytest.raises(Heard):
                Rendezvous(1, 2, 1, 2, store).read("plan", 20.0)
            assert time.monotonic() - start < 10
        finally:
            asks.join()
            signal.signal(signal.SIGUSR1, before)

    def test_a_reader_waits_for_the_publisher(self) -> None:
        first, second = ranks(2)
        read: list[object] = []
        reader = threading.Thread(
            target=lambda: read.append(second.read("plan", TEST_TIMEOUT_S)), daemon=True
        )
        reader.start()
        first.publish("plan", 5)
        reader.join(TEST_TIMEOUT_S)
        assert read == [5]

    def test_a_reader_gives_up_at_its_deadline(self) -> None:
        begin = time.monotonic()
        with pytest.raises(StageError, match=r"^rank 1 waited 0\.1 s for 'plan' from another rank$"):
            ranks(2)[1].read("plan", 0.1)
        assert 0.09 < time.monotonic() - begin < 5.0

    def test_a_reader_of_several_values_has_one_deadline_for_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second, _ = ranks(3)
        now = [0.0]

        def sleep(seconds: float) -> None:
            now[0] += seconds
            if now[0] >= 3.0:
                second.publish("word/1", "late")

        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
        for module in ("rendezvous", "store_connection"):
            monkeypatch.setattr(f"workers.coordination.{module}.time", clock)
        with pytest.raises(Late, match=r"^rank 0 waited 5 s for 'word/2' from another rank$"):
            first.all_gather("word", "mine", 5.0)
        assert 5.0 <= now[0] < 5.1

    def test_only_the_first_claim_counts(self) -> None:
        first, second, third = ranks(3)
        assert [rank.claim("failure") for rank in (second, first, third, second)] == [True] + [False] * 3
        assert first.claim("something else")

    def test_of_many_simultaneous_claims_exactly_one_succeeds(self) -> None:
        claims: list[bool] = []
        barrier = threading.Barrier(8, timeout=TEST_TIMEOUT_S)

        def claim(rank: Rendezvous) -> None:
            barrier.wait()
            claims.append(rank.claim("failure"))

        threads = [threading.Thread(target=claim, args=(rank,), daemon=True) for rank in ranks(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TEST_TIMEOUT_S)
        assert sorted(claims) == [False] * 7 + [True]


class TestSignatures:
    """A local user who knows no secret can write to the store on the loopback interface."""

    @pytest.fixture
    def ranks(self) -> list[Rendezvous]:
        store = dist.HashStore()
        return [Rendezvous(rank, 2, rank, 2, store, secret=b"of this job") for rank in range(2)]

    def test_what_one_rank_publishes_another_reads(self, ranks: list[Rendezvous]) -> None:
        ranks[0].publish("plan", [1, "ä"])
        assert ranks[1].read("plan", 1.0) == ranks[1].peek("plan") == [1, "ä"]
        assert ranks[1].peek_all(["plan", "other"]) == {"plan": [1, "ä"]}

    @pytest.mark.parametrize("forged", ["[1, 2]", "0" * 64 + "[1, 2]", b"\xff", ""])
    def test_a_strangers_value_is_not_read(self, ranks: list[Rendezvous], forged: str | bytes) -> None:
        ranks[0].store.set("plan", forged)
        with pytest.raises(StageError, match="'plan' in the rendezvous store was not written by this job"):
            ranks[1].read("plan", 1.0)
        assert ranks[1].peek("plan") is None and ranks[1].peek_all(["plan"]) == {}

    def test_a_value_counts_under_its_own_key_and_restart_only(self, ranks: list[Rendezvous]) -> None:
        ranks[0].publish("plan", 5)
        ranks[0].store.set("other", ranks[0].store.get("plan"))
        assert ranks[1].peek("other") is None
        ranks[1].restart = 1
        assert ranks[1].peek("plan") is None

    def test_a_strangers_claim_keeps_no_rank_from_its_own(self, ranks: list[Rendezvous]) -> None:
        ranks[0].store.set("printer", "mine")
        ranks[0].store.set("failure", "\x1b[2J nothing happened")
        assert [rank.claim("printer") for rank in ranks] == [True, False]
        assert ranks[1].publish_first("failure", ["a disk is full", 1])
        assert not ranks[0].publish_first("failure", ["too late", 1])
        assert ranks[0].peek("failure") == ["a disk is full", 1]

    def test_what_a_restarted_job_reads_is_signed_too(self) -> None:
        persistent = dist.HashStore()
        first, second = (
            Rendezvous(0, 2, 0, 2, dist.HashStore(), persistent, restart, secret=b"x") for restart in (0, 1)
        )
        first.publish_for_restart("begun", True)
        assert second.read_before_restart("begun") is True
        persistent.set("begun", "[0, true]")
        assert second.read_before_restart("begun") is None


class TestAfterARestart:
    def test_a_restart_sees_only_the_values_published_for_restarts(self) -> None:
        base = dist.HashStore()

        def start(restart: int) -> Rendezvous:
            store = dist.PrefixStore(str(restart), base)
            return Rendezvous(0, 2, 0, 2, store, dist.PrefixStore("lasting", base), restart, 3)

        first, second = start(0), start(1)
        first.publish("plan", 5)
        first.publish_for_restart("begun", {"step": 3})
        assert first.read_before_restart("begun") is None  # it is no news to these ranks
        assert second.read_before_restart("begun") == start(2).read_before_restart("begun") == {"step": 3}
        assert second.peek("plan") is second.read_before_restart("plan") is None

    def test_without_restarts_no_value_is_published_for_restarts(self) -> None:
        alone = Rendezvous(0, 1, 0, 1, dist.HashStore())
        alone.publish_for_restart("begun", True)
        assert alone.read_before_restart("begun") is None


class TestAnotherConnection:
    def test_another_connection_reaches_the_same_store_while_the_first_one_waits(self) -> None:
        server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        store = dist.PrefixStore(
            "job", dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)
        )
        first = Rendezvous(0, 2, 0, 2, store)
        second = first.with_own_connection(TEST_TIMEOUT_S)
        read: list[object] = []
        reader = threading.Thread(target=lambda: read.append(first.read("plan", TEST_TIMEOUT_S)), daemon=True)
        reader.start()
        second.publish("plan", 5)  # the first connection is, or will be, taken by the wait
        reader.join(TEST_TIMEOUT_S)
        assert read == [5] and second.peek("plan") == 5


class Forwarder:
    """Between the ranks and their store; its connections can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._run)

    def cut(self) -> None:
        """Break all connections. New ones are possible."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break everything; nothing listens any more. May be called twice."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for connection in [self._server, *self._connections]:
            connection.close()

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._connections += [near, far]
                for source, sink in ((near, far), (far, near)):
                    self._start(self._forward, source, sink)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class TestABrokenConnection:
    @pytest.fixture
    def forwarder(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forwarder]:
        self.server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        forwarder = Forwarder(self.server.port)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(forwarder.port))
        yield forwarder
        forwarder.close()

    def rank(self, forwarder: Forwarder) -> Rendezvous:
        client = dist.TCPStore("127.0.0.1", forwarder.port, is_master=False, wait_for_workers=False)
        job, lasting = (dist.PrefixStore(name, client) for name in ("job", "lasting"))
        return Rendezvous(0, 2, 0, 2, job, lasting)

    def test_is_made_again_by_whatever_is_asked(self, forwarder: Forwarder) -> None:
        me = self.rank(forwarder)
        me.publish("plan", 5)
        asked: list[Callable[[], object]] = [
            lambda: me.read("plan", TEST_TIMEOUT_S),
            lambda: me.peek("plan"),
            lambda: me.peek_all(["plan", "other"]),
            lambda: me.publish("plan", 6),
            lambda: me.publish_first("plan", 7),
            lambda: me.with_own_connection(TEST_TIMEOUT_S).peek("plan"),
        ]
        answers = []
        for ask in asked:
            forwarder.cut()
            answers.append(ask())
        assert answers == [5, 5, {"plan": 5}, None, False, 6]

    def test_is_made_again_for_what_a_restarted_job_reads(self, forwarder: Forwarder) -> None:
        me = self.rank(forwarder)
        for value in (5, 6):
            forwarder.cut()
            me.publish_for_restart("begun", value)
        forwarder.cut()
        assert replace(me, restart=1).read_before_restart("begun") == 6

    def test_to_a_store_that_is_gone_is_an_error_at_once(self, forwarder: Forwarder) -> None:
        me = self.rank(forwarder)
        forwarder.close()
        begin = time.monotonic()
        with pytest.raises(dist.DistNetworkError):
            me.publish("plan", 5)
        with pytest.raises(StageError, match="rank 0 has lost the rendezvous store"):
            me.read("plan", TEST_TIMEOUT_S)
        assert time.monotonic() - begin < TEST_TIMEOUT_S / 2


class TestWhoIsGone:
    def test_no_rank_is_gone_while_all_run_or_have_not_come(self) -> None:
        first, second = ranks(2)
        first.publish_process()
        assert second.gone_ranks() == []

    def test_a_process_that_ended_is_gone_even_before_its_parent_knows(self) -> None:
        first, second = ranks(2)
        with subprocess.Popen(["sleep", str(TEST_TIMEOUT_S)]) as process:
            first.publish_process()
            second.publish("process/1", [host_identity(), process.pid])
            assert first.gone_ranks() == []
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
            assert first.gone_ranks() == [1]
            process.wait(TEST_TIMEOUT_S)
            assert first.gone_ranks() == [1]

    def test_processes_of_other_hosts_are_never_called_gone(self) -> None:
        first, second = ranks(2)
        second.publish("process/1", ["another host", 2**22 + 1])
        assert first.gone_ranks() == []

    def test_the_store_waits_as_long_as_before_when_it_was_asked_who_is_gone(self) -> None:
        store = dist.HashStore()
        store.set_timeout(timedelta(seconds=7))
        first = Rendezvous(0, 2, 0, 2, store)
        first.publish_process()
        assert first.gone_ranks() == []
        assert first.store.timeout == timedelta(seconds=7)  # type: ignore[attr-defined]

    def test_a_broken_store_is_no_new_failure(self) -> None:
        alone = Rendezvous(0, 2, 0, 2, dist.HashStore())
        alone.store.set("process/1", "no JSON")
        assert alone.gone_ranks() == []


class TestMeeting:
    def test_two_processes_find_each_other(self, tmp_path: Path) -> None:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "3",
        }
        with ExitStack() as stack:
            children = [
                stack.enter_context(
                    Child(
                        meet_and_tell,
                        tmp_path / str(rank),
                        RANK=str(rank),
                        LOCAL_RANK=str(1 - rank),
                        **shared,
                    )
                )
                for rank in (0, 1)
            ]
            told = [child.hear() for child in children]
            assert [child.status() for child in children] == [0, 0], [child.lines() for child in children]
        (pid0, host0), (pid1, host1) = told[0]["processes"]
        assert told[0]["processes"] == told[1]["processes"]
        assert pid0 != pid1
        assert host0 == host1 == host_identity()
        assert [t["place"] for t in told] == [[0, 2, 1, 2], [1, 2, 0, 2]]
        assert sorted(t["first"] for t in told) == [False, True]
        assert store.check(["dni_async/3/process/0"])  # after a restart nobody reads what was before


def meet_and_tell(runner: RankRunner, mouth: Connection) -> None:
    me = runner.join(TEST_TIMEOUT_S)
    assert runner.join(TEST_TIMEOUT_S) is me
    me.publish(f"who/{me.rank}", [os.getpid(), host_identity()])
    mouth.send(
        {
            "place": [me.rank, me.world, me.local_rank, me.local_world],
            "processes": [me.read(f"who/{rank}", TEST_TIMEOUT_S) for rank in range(me.world)],
            "first": me.claim("first"),
        }
    )


def test_without_a_loopback_interface_the_user_is_told_at_once() -> None:
    script = """
from dni_async.errors import UserError
from workers.coordination.loopback import check_loopback
try:
    check_loopback()
except UserError as error:
    print(error)
"""
    unshare = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this system makes no network namespaces")
    run = [*unshare, sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, timeout=TEST_TIMEOUT_S, cwd=ROOT)
    assert done.stdout.startswith("the loopback interface does not work (Network is unreachable)"), (
        done.stderr
    )
