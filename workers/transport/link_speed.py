"""How fast the links between hosts are, measured before the training.

    all ranks      connect to the neighbours ─ ready ─ wait until all are
    at once, on    zeros ----->      eight round trips, in which TCP finds out what the wire carries
    all links      <----- zeros      half a second: the most that came in a quarter of a second
                                     until all ranks have measured

All links are busy while any is measured, since several may share a wire. A wire that carries little has its
queues full for no longer than it was measured: TCP has at most twice as much under way as has arrived.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from workers.coordination.rendezvous import Rendezvous
from workers.transport.tcp import find, listen, open_connections
from workers.transport.tcp_socket import round_trip_s, shut_down

_PURPOSE = "link-speed"
_READY, _BEGIN = f"{_PURPOSE}/ready", f"{_PURPOSE}/begin"
_SECONDS, _ROUND_TRIPS = 0.5, 8
_SKEW_S = 0.05
"""Between the first rank that sends and the last, beside the round trips."""
_WINDOW_S = 0.25
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """What was measured of a link between two stages."""

    round_trip_s: float
    downstream_bytes_per_s: float
    """Towards the loss, while the link is busy in the other direction as well."""
    upstream_bytes_per_s: float


def agree_on_link_speeds(
    rendezvous: Rendezvous, pairs: Sequence[tuple[int, int]], timeout: float
) -> dict[tuple[int, int], LinkSpeed]:
    """Measure the links between these ranks, over TCP; every rank of the job has to call it."""
    rank = rendezvous.rank
    with ExitStack() as stack:  # all send until all have measured
        own = _measure(
            rendezvous, [b if a == rank else a for a, b in pairs if rank in (a, b)], timeout, stack
        )
        rendezvous.publish(f"{_PURPOSE}/{rank}", own)
        measured = sorted({n for pair in pairs for n in pair})
        keys = [f"{_PURPOSE}/{n}" for n in measured]
        found = dict(zip(measured, rendezvous.read_all(keys, timeout), strict=True))
    speeds = {}
    for a, b in pairs:
        (trip_a, upstream), (trip_b, downstream) = found[a][str(b)], found[b][str(a)]
        speeds[a, b] = LinkSpeed(min(trip_a, trip_b), downstream, upstream)
    return speeds


def _measure(
    rendezvous: Rendezvous, neighbours: Sequence[int], timeout: float, stack: ExitStack
) -> dict[str, list[float]]:
    """Seconds of a round trip and bytes per second that come in, by neighbour; the stack ends the sending."""
    outgoing, incoming, trips = [], {}, {}
    for n, listener in listen(rendezvous, neighbours, _PURPOSE, timeout).items():
        address, secret = find(rendezvous, n, _PURPOSE, timeout)
        ends = open_connections(address, secret, n, 1, timeout)
        trips[n] = min(map(round_trip_s, ends))
        outgoing += ends
        incoming[n] = listener.accept_connections(timeout)[0]
    arrivals: dict[int, list[tuple[float, int]]] = {n: [] for n in neighbours}
    threads = [threading.Thread(target=_send, args=(end,), daemon=True) for end in outgoing]
    threads += [
        threading.Thread(target=_receive, args=(end, arrivals[n]), daemon=True)
        for n, ends in incoming.items()
        for end in ends
    ]
    warm_up = _SKEW_S + _ROUND_TRIPS * _begin_together(rendezvous, max(trips.values(), default=0.0), timeout)
    begin = time.monotonic() + warm_up
    stack.callback(_end, threads, [*outgoing, *(end for ends in incoming.values() for end in ends)], timeout)
    for thread in threads:
        thread.start()
    time.sleep(warm_up + _SECONDS)
    return {
        str(n): [trips[n], most_in_a_window([a for a in arrivals[n] if a[0] >= begin], _WINDOW_S)]
        for n in neighbours
    }


def _begin_together(rendezvous: Rendezvous, round_trip_s: float, timeout: float) -> float:
    """Wait until all ranks are connected to their neighbours; returns the longest of their round trips."""
    rendezvous.publish(f"{_READY}/{rendezvous.rank}", round_trip_s)
    if rendezvous.rank == 0:  # so that the others wait for one value, and begin at almost the same time
        trips = rendezvous.read_all([f"{_READY}/{n}" for n in range(rendezvous.world)], timeout)
        rendezvous.publish(_BEGIN, max(trips))
    return float(rendezvous.read(_BEGIN, timeout))


def _end(threads: Sequence[threading.Thread], connections: Sequence[socket.socket], timeout: float) -> None:
    shut_down(connections)  # wakes the threads
    for thread in threads:
        thread.join(timeout)
    for connection in connections:
        connection.close()


def _send(connection: socket.socket) -> None:
    """Send zeros until the connection is shut down by either side; a thread's body."""
    zeros = bytes(_CHUNK_BYTES)
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(zeros)


def _receive(connection: socket.socket, arrivals: list[tuple[float, int]]) -> None:
    """Note when how many bytes arrive, until the connection is shut down; a thread's body."""
    buffer = bytearray(_CHUNK_BYTES)
    with contextlib.suppress(OSError):
        while count := connection.recv_into(buffer):
            arrivals.append((time.monotonic(), count))


def most_in_a_window(arrivals: Sequence[tuple[float, int]], seconds: float) -> float:
    """The most bytes per second that arrived in any `seconds`; 0 if nothing did.

    Args:
        arrivals: when how many bytes came, in any order.
    """
    most = inside = first = 0
    ordered = sorted(arrivals)
    for when, count in ordered:
        inside += count
        while ordered[first][0] <= when - seconds:
            inside -= ordered[first][1]
            first += 1
        most = max(most, inside)
    return most / seconds
