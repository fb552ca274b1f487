"""Hosts that are far apart: latency, bandwidth, and what a user reads who cannot have them."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dni_async.errors import UserError
from launch.local.wan import FarHosts, Wire, _Switch, address, enter, far_hosts, in_thread
from tests.support.waiting import meanwhile

LATENCY_S = 0.03
BYTES_PER_S = 5e6
TEST_TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def hosts() -> Iterator[FarHosts]:
    try:
        with far_hosts(3, Wire(LATENCY_S, BYTES_PER_S)) as made:
            yield made
    except UserError as error:
        pytest.skip(str(error))


def connected(hosts: FarHosts, source: int, destination: int) -> tuple[socket.socket, socket.socket, float]:
    """Both ends of a connection, and the seconds that it took to make it."""

    def listen() -> socket.socket:
        enter(hosts.namespaces[destination])
        server = socket.create_server((address(destination), 0))
        server.settimeout(TEST_TIMEOUT_S)
        return server

    def connect() -> tuple[socket.socket, float]:
        enter(hosts.namespaces[source])
        begin = time.monotonic()
        return socket.create_connection(server.getsockname(), TEST_TIMEOUT_S), time.monotonic() - begin

    with in_thread(listen) as server:
        client, seconds = in_thread(connect)
        accepted, _ = server.accept()
    accepted.settimeout(TEST_TIMEOUT_S)
    return client, accepted, seconds


@pytest.mark.parametrize(("source", "destination"), [(0, 1), (2, 0), (1, 2)])
def test_a_connection_takes_a_round_trip(hosts: FarHosts, source: int, destination: int) -> None:
    client, accepted, seconds = connected(hosts, source, destination)
    with client, accepted:
        assert 2 * LATENCY_S <= seconds < 20 * LATENCY_S


def test_bytes_arrive_no_faster_than_the_wire_allows(hosts: FarHosts) -> None:
    client, accepted, _ = connected(hosts, 0, 1)
    size = int(BYTES_PER_S / 2)
    with client, accepted:
        begin = time.monotonic()
        with meanwhile(client.sendall, b"\0" * size):
            while size:
                data = accepted.recv(1 << 20)
                assert data, f"the connection ended {size} bytes too early"
                size -= len(data)
        assert 0.5 <= time.monotonic() - begin < 10.0


def test_hosts_do_not_reach_the_network_of_this_machine(hosts: FarHosts) -> None:
    def connect() -> None:
        enter(hosts.namespaces[0])
        with socket.create_server(("127.0.0.1", 0)):
            pass
        socket.create_connection(outside.getsockname(), 1.0).close()

    with socket.create_server(("127.0.0.1", 0)) as outside, pytest.raises(OSError):
        in_thread(connect)


def test_this_process_stays_where_it_was_and_nothing_is_left(hosts: FarHosts) -> None:
    before, network = len(os.listdir("/proc/self/fd")), os.readlink("/proc/self/ns/net")
    threads = threading.active_count()
    with far_hosts(2, Wire(0.0, 1e9)) as made:
        assert len({os.readlink(path) for path in made.namespaces} | {network}) == 3
    assert os.readlink("/proc/self/ns/net") == network
    assert len(os.listdir("/proc/self/fd")) == before and threading.active_count() == threads


@pytest.mark.parametrize(
    "text", ["25", "25,1000,3", "near,fast", "-1,1000", "25,0", "nan,10", "25,inf", "1e9,1"]
)
def test_a_wire_that_cannot_be_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=f"^wan is {text}; [^\n]+$"):
        Wire.parse(text)


def test_a_wire_says_what_it_is() -> None:
    wire = Wire.parse("25,1000")
    assert (wire.latency_s, wire.bytes_per_s) == (0.025, 125e6)
    assert str(wire) == "emulated hosts 50 ms apart (round trip) at 1000 Mbit/s"


def test_without_the_rights_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("launch.local.wan._check", refuse)
    line = r"^no network of far hosts can be made here \(Operation not permitted\); root, iproute2 and .+$"
    with pytest.raises(UserError, match=line), far_hosts(2, Wire(0.0, 1e9)):
        raise AssertionError("they were made")


def test_hosts_have_a_bound() -> None:
    with pytest.raises(UserError, match="300 hosts are too many"), far_hosts(300, Wire(0.0, 1e9)):
        raise AssertionError("they were made")


def test_a_tool_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch, hosts: FarHosts) -> None:
    def hang(command: list[str], **options: float) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with (
        pytest.raises(UserError, match=r"timed out after 10\.0 seconds\); root"),
        far_hosts(1, Wire(0.0, 1e9)),
    ):
        raise AssertionError("they were made")


@pytest.mark.parametrize(("last_byte", "received"), [(1, 0), (2, 1), (0, None), (3, None), (255, None)])
def test_a_packet_goes_to_the_host_of_its_address_or_nowhere(last_byte: int, received: int | None) -> None:
    with ExitStack() as stack:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end).setblocking(False)
        switch = _Switch([tun.fileno() for tun, _ in pairs], Wire(0.0, 1e9))
        packet = bytes([4 << 4, *(18 * [0]), last_byte]) + b"..."
        pairs[0][1].send(packet)
        switch._take(pairs[0][0].fileno())
        for queue in switch._on_the_wire.values():
            while queue:
                switch._deliver(queue)
        for host, (_, outside) in enumerate(pairs):
            if host == received:
                assert outside.recv(100) == packet
            else:
                with pytest.raises(BlockingIOError):
                    outside.recv(100)
