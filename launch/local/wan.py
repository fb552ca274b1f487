"""Hosts that are far apart, on one Linux machine: network namespaces joined by a slow wire.

    namespace 0, 10.77.0.1 ── TUN ──┐
    namespace 1, 10.77.0.2 ── TUN ──┼── one thread of this process: holds every packet for the latency,
    namespace 2, 10.77.0.3 ── TUN ──┘   and lets each host send so many bytes a second

TCP, gloo and torchrun see an ordinary network. Namespaces have no names and devices belong to them, so all
of it ends with this process. Needs root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dni_async.errors import UserError

INTERFACE = "wan0"
"""Of every host."""
_HOSTS = "DNI_ASYNC_FAR_HOSTS"
"""Environment variable of the ranks: the namespaces of all hosts."""
_MTU = 9000
_MOST_HOSTS = 250
_IDLE_S = 0.1
_COMMAND_TIMEOUT_S = 10.0
"""Seconds that a command of iproute2 may take."""
_BATCH = 64
"""Packets that are taken from one host before the others have their turn."""

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wire:
    """A slow link between any two hosts, such as a wide-area network."""

    latency_s: float
    """Seconds one way; a round trip takes twice that."""
    bytes_per_s: float
    """What a host can send at most."""

    @classmethod
    def parse(cls, text: str) -> Wire:
        """Return the wire that `LATENCY_MS,MBIT` means, such as 25,1000. Raises UserError."""
        try:
            latency_ms, mbit = (float(part) for part in text.split(","))
        except ValueError:
            raise UserError(f"wan is {text}; write LATENCY_MS,MBIT (one way), such as 25,1000") from None
        if not (0 <= latency_ms < 1e5 and 0 < mbit < math.inf):
            raise UserError(f"wan is {text}; the latency must be 0 to 100,000 ms, the rate above 0 Mbit/s")
        return cls(latency_ms / 1e3, mbit * 1e6 / 8)

    @property
    def round_trip_ms(self) -> float:
        """Milliseconds there and back."""
        return 2e3 * self.latency_s

    @property
    def mbit_per_s(self) -> float:
        """The rate, as it is given."""
        return self.bytes_per_s * 8e-6

    def __str__(self) -> str:
        return f"emulated hosts {self.round_trip_ms:g} ms apart (round trip) at {self.mbit_per_s:g} Mbit/s"


NO_WIRE = Wire(0.0, math.inf)
"""Between processes of one host."""


@dataclass(frozen=True, slots=True)
class FarHosts:
    """The emulated hosts of a job, which exist until the `far_hosts` block ends."""

    namespaces: list[str]
    """A path for each, which `enter` takes, in this process and in those of our user that it starts."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which ranks find their hosts, and gloo and rpc the wire."""
        names = {f"{backend}_SOCKET_IFNAME": INTERFACE for backend in ("GLOO", "TP")}
        return names | {_HOSTS: ",".join(self.namespaces)}

    @contextmanager
    def visit(self, host: int) -> Iterator[None]:
        """Move the calling thread to a host until the end of the block."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(self.namespaces[host])
            yield
        finally:
            _check(_LIBC.setns(home, _CLONE_NEWNET))
            os.close(home)


@contextmanager
def far_hosts(count: int, wire: Wire) -> Iterator[FarHosts]:
    """Make `count` hosts, joined by the wire until the end of the block.

    Raises UserError where this process may not, or tools are missing.
    """
    if count > _MOST_HOSTS:
        raise UserError(f"{count} hosts are too many to emulate; use at most {_MOST_HOSTS}")
    with ExitStack() as stack:
        hosts = [in_thread(lambda host=host: _make_host(host)) for host in range(count)]  # type: ignore[misc]
        for descriptor in [fd for pair in hosts for fd in pair]:
            stack.callback(os.close, descriptor)
        running = threading.Event()
        running.set()
        switch = _Switch([tun for _, tun in hosts], wire)
        thread = threading.Thread(target=switch.run, args=(running,), name="wan", daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(running.clear)
        yield FarHosts([f"/proc/{os.getpid()}/fd/{namespace}" for namespace, _ in hosts])


def enter_own_host() -> None:
    """Move this rank to its host, if its job has emulated hosts."""
    if namespaces := os.environ.get(_HOSTS):
        enter(namespaces.split(",")[int(os.environ["LOCAL_RANK"])])


def enter(namespace: str) -> None:
    """Move the calling thread, and what it starts from now on, to a host."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_LIBC.setns(descriptor, _CLONE_NEWNET))
    finally:
        os.close(descriptor)


def in_thread(function: Callable[[], T]) -> T:
    """Return or raise what a function does in a thread of its own, as namespaces belong to threads."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def _make_host(host: int) -> tuple[int, int]:
    """Return the descriptors of a new namespace and of its TUN device; the calling thread moves there."""
    with ExitStack() as stack:
        try:
            _check(_LIBC.unshare(_CLONE_NEWNET))
            namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, namespace)
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, tun)
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI))
            for command in (
                "link set lo up",
                f"addr add {address(host)}/24 dev {INTERFACE}",
                f"link set {INTERFACE} mtu {_MTU} txqueuelen 10000 up",
            ):
                subprocess.run(
                    ["ip", *command.split()], check=True, capture_output=True, timeout=_COMMAND_TIMEOUT_S
                )
        except (OSError, subprocess.SubprocessError) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            needs = "root, iproute2 and /dev/net/tun are needed"
            raise UserError(f"no network of far hosts can be made here ({cause}); {needs}") from None
        stack.pop_all()
    return namespace, tun


class _Switch:
    """Moves packets between the hosts, each after the latency and no faster than the rate."""

    def __init__(self, tuns: list[int], wire: Wire) -> None:
        self._tuns = tuns
        self._wire = wire
        self._free_at = dict.fromkeys(tuns, 0.0)
        """When each host may send again."""
        self._on_the_wire: dict[int, deque[tuple[float, int, bytes]]] = {tun: deque() for tun in tuns}
        """By sender: when a packet arrives, where, and itself."""

    def run(self, running: threading.Event) -> None:
        """Forward until `running` is cleared."""
        while running.is_set():
            wait = min([_IDLE_S, *(self._deliver(queue) for queue in self._on_the_wire.values())])
            for tun in select.select(self._tuns, [], [], wait)[0]:  # (epoll would round up to milliseconds)
                self._take(tun)

    def _take(self, tun: int) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(tun, _MTU + 64)
            except OSError:
                return
            sent = max(time.monotonic(), self._free_at[tun]) + len(packet) / self._wire.bytes_per_s
            self._free_at[tun] = sent
            receiver = packet[19] - 1  # last byte of the destination's IPv4 address
            if packet[0] >> 4 == 4 and 0 <= receiver < len(self._tuns):
                arrives = sent + self._wire.latency_s
                self._on_the_wire[tun].append((arrives, self._tuns[receiver], packet))

    def _deliver(self, queue: deque[tuple[float, int, bytes]]) -> float:
        """Hand over the packets that have arrived; seconds until the next one does."""
        while queue:
            arrives, receiver, packet = queue[0]
            if (wait := arrives - time.monotonic()) > 0:
                return wait
            try:
                os.write(receiver, packet)
            except BlockingIOError:
                return 5e-4
            except OSError:
                pass  # its host is shut down
            queue.popleft()
        return math.inf


def address(host: int) -> str:
    """Return the IP address of a host."""
    return f"10.77.0.{host + 1}"


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
