"""How fast the links between hosts are, measured before the training.

    every rank, on all its links at once    zeros ----->      for half a second and eight round trips
                                            <----- zeros      the most that came in a quarter of a second

The eight round trips are those in which TCP finds out what the wire carries. A wire that carries little has
its queues full for no longer than it was measured: TCP has at most twice as much under way as has arrived.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from workers.coordination.rendezvous import Rendezvous
from workers.transport.tcp import find, listen, open_connections
from workers.transport.tcp_socket import round_trip_s, shut_down

_PURPOSE = "link-speed"
_SECONDS, _ROUND_TRIPS = 0.5, 8
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
    """Measure the links between these ranks, over TCP; every rank of the job has to call it.

    A rank that is started again while its neighbours go on takes what was measured before.
    """
    key = f"{_PURPOSE}/{rendezvous.rank}"
    if rendezvous.peek(key) is None:
        rank = rendezvous.rank
        neighbours = [b if a == rank else a for a, b in pairs if rank in (a, b)]
        rendezvous.publish(key, _measure(rendezvous, neighbours, timeout))
    found = {
        n: rendezvous.read(f"{_PURPOSE}/{n}", timeout) for n in sorted({n for pair in pairs for n in pair})
    }
    speeds = {}
    for a, b in pairs:
        (trip_a, upstream), (trip_b, downstream) = found[a][str(b)], found[b][str(a)]
        speeds[a, b] = LinkSpeed(min(trip_a, trip_b), downstream, upstream)
    return speeds


def _measure(rendezvous: Rendezvous, neighbours: Sequence[int], timeout: float) -> dict[str, list[float]]:
    """Seconds of a round trip and bytes per second that come in, by neighbour."""
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
    for thread in threads:
        thread.start()
    time.sleep(_SECONDS + _ROUND_TRIPS * max(trips.values(), default=0.0) if threads else 0.0)
    connections = [*outgoing, *(end for ends in incoming.values() for end in ends)]
    shut_down(connections)  # wakes the threads
    for thread in threads:
        thread.join(timeout)
    for connection in connections:
        connection.close()
    return {str(n): [trips[n], most_in_a_window(arrivals[n], _WINDOW_S)] for n in neighbours}


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
