"""Ranks that join the rendezvous store, and what they meet instead of it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import pytest

from dni_async.errors import StageError, UserError
from tests.support.channels import TEST_TIMEOUT_S
from tests.support.children import Child
from tests.support.waiting import until
from workers.coordination import join_store as module
from workers.coordination.join_store import join_store
from workers.failure.rank_runner import RankRunner


@pytest.fixture
def port() -> Iterator[int]:
    """A port at which somebody else listens."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port at which nobody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        return int(other.getsockname()[1])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, port: int) -> pytest.MonkeyPatch:
    """Rank 0 of two, at a port that is taken."""
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(port))
    return monkeypatch


class TestBadInput:
    def test_a_rank_without_an_address_to_meet_at(self, environment: pytest.MonkeyPatch) -> None:
        environment.delenv("MASTER_ADDR")
        line = r"^RANK is set and MASTER_ADDR is not; start the ranks by torchrun, or unset RANK$"
        with pytest.raises(UserError, match=line):
            join_store(1.0)

    @pytest.mark.parametrize("port", ["", "abc", "-1", "0", "65536"])
    def test_a_port_that_cannot_be(self, environment: pytest.MonkeyPatch, port: str) -> None:
        environment.setenv("MASTER_PORT", port)
        with pytest.raises(UserError, match=f"^MASTER_PORT is {port}; it must be 1 to 65535$"):
            join_store(1.0)

    @pytest.mark.parametrize(
        ("variable", "text", "allowed"),
        [("RANK", "", "0"), ("RANK", "-1", "0"), ("RANK", "one", "0"), ("WORLD_SIZE", "0", "1")],
    )
    def test_a_place_that_is_no_number(
        self, environment: pytest.MonkeyPatch, variable: str, text: str, allowed: str
    ) -> None:
        environment.setenv(variable, text)
        line = f"^{variable} is {text}; it must be a whole number from {allowed}$"
        with pytest.raises(UserError, match=line):
            join_store(1.0)

    def test_a_rank_that_the_job_does_not_have(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("RANK", "2")
        with pytest.raises(UserError, match=r"^RANK is 2 and WORLD_SIZE is 2; ranks count from 0$"):
            join_store(1.0)

    @pytest.mark.parametrize("rank", ["0", "1"])
    def test_a_host_that_does_not_resolve(
        self, environment: pytest.MonkeyPatch, rank: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        environment.setenv("MASTER_ADDR", "nowhere.invalid")
        environment.setenv("RANK", rank)
        with pytest.raises(
            UserError, match=r"^MASTER_ADDR is nowhere\.invalid, which is no known host \(.+\)"
        ):
            join_store(0.2)
        assert capfd.readouterr().err == ""

    def test_a_port_in_use(self, environment: pytest.MonkeyPatch, port: int) -> None:
        with pytest.raises(UserError) as error:
            join_store(5.0)
        assert str(error.value) == f"the rendezvous port is in use (127.0.0.1:{port}); choose another"


class TestAtTheDeadline:
    def test_a_rank_0_that_nobody_joins_says_so(self, environment: pytest.MonkeyPatch, free: int) -> None:
        environment.setenv("MASTER_PORT", str(free))
        begin = time.monotonic()
        with pytest.raises(StageError) as error:
            join_store(0.5)
        assert str(error.value).startswith(f"rank 0 could not meet the others at 127.0.0.1:{free} (")
        assert "\n" not in str(error.value)
        assert time.monotonic() - begin < 10.0

    def test_a_rank_that_finds_no_listener_says_so(self, environment: pytest.MonkeyPatch, free: int) -> None:
        environment.setenv("RANK", "1")
        environment.setenv("MASTER_PORT", str(free))
        line = rf"^rank 1 could not meet the others at 127\.0\.0\.1:{free} in 0\.2 s \(Connection refused\)$"
        with pytest.raises(StageError, match=line):
            join_store(0.2)

    def test_a_listener_that_never_answers_is_given_up(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("RANK", "1")
        environment.setattr(module, "OVERTIME_S", 0.2)
        with foreign(lambda connection: None) as server:
            environment.setenv("MASTER_PORT", str(server.port))
            with pytest.raises(StageError, match=r"^rank 1 could not meet .+ in 0\.5 s \(no answer\)$"):
                join_store(0.3)
        until(  # what it prints is not for the next test
            lambda: all(thread.name != "interruptible call" for thread in threading.enumerate()),
            TEST_TIMEOUT_S,
            "the end of the abandoned call",
        )


class foreign:
    """A server on this host that speaks another protocol with everybody who connects."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> foreign:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in [self._server, *self._connections]:
            connection.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._connections.append(connection)
            try:
                self._answer(connection)
            except OSError:
                pass


def hang_up(connection: socket.socket) -> None:
    connection.close()


def greet_as_ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")


def answer_as_http(connection: socket.socket) -> None:
    if connection.recv(100):
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    connection.close()


@pytest.mark.parametrize("answer", [hang_up, greet_as_ssh, answer_as_http])
def test_a_server_of_another_protocol_is_refused_in_one_line(
    environment: pytest.MonkeyPatch,
    answer: Callable[[socket.socket], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    environment.setenv("RANK", "1")
    with foreign(answer) as server:
        environment.setenv("MASTER_PORT", str(server.port))
        line = rf"^what listens at 127\.0\.0\.1:{server.port} is no rendezvous store \([^\n]+\); correct"
        with pytest.raises(UserError, match=line):
            join_store(1.0)
    assert capfd.readouterr().err == ""


def join(runner: RankRunner, mouth: Connection) -> None:
    runner.join(TEST_TIMEOUT_S)


def test_a_rank_0_without_a_launcher_hears_sigterm_while_it_waits_for_the_others(
    tmp_path: Path, free: int
) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free)}

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", free)) == 0

    with Child(join, tmp_path, TORCHELASTIC_USE_AGENT_STORE="", **place) as child:
        until(listens, TEST_TIMEOUT_S, "the store")
        asked = time.monotonic()
        os.kill(child.process.pid or 0, signal.SIGTERM)
        assert child.status() == 128 + signal.SIGTERM
        assert time.monotonic() - asked < TEST_TIMEOUT_S / 2
        assert child.lines() == ["dni-async: rank 0, before the first step: stopped by SIGTERM"]


def test_a_signal_is_heard_while_a_rank_waits_for_a_store_that_is_not_there(
    environment: pytest.MonkeyPatch, port: int
) -> None:
    class Heard(Exception):
        pass

    def hear(signum: int, frame: FrameType | None) -> None:
        raise Heard

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        environment.setenv("MASTER_PORT", str(other.getsockname()[1]))
        environment.setenv("RANK", "1")
        before = signal.signal(signal.SIGUSR1, hear)
        asks = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGUSR1])
        try:
            asks.start()
            with pytest.raises(Heard):
                join_store(TEST_TIMEOUT_S)
        finally:
            asks.join()
            signal.signal(signal.SIGUSR1, before)
