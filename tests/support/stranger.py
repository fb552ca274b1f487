"""Another user of the same machine, who attacks what a job listens at.

campaign (root)                        stranger (uid 65534)
listeners of the job   -- pipe -->     attacks each of them, and goes on attacking the store
the job has ended      -- pipe -->     says what it could read
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection

import torch.distributed as dist

from tests.support.forks import context

UID = 65534
FLOOD = 129
"""Connections to one listener: one more than its queue has room for."""
FORGED_TEXT = "FORGED"
"""In everything that a stranger writes; a job may never print it."""
FORGED_LINE = f"\x1b[2J\x1b]0;{FORGED_TEXT}\x07\r\n{FORGED_TEXT}"
KEYS = ("failure", "failure_printed", "failure_printer", "finished", "plan", "host/0", "host/1", "process/0")
_ATTACK_INTERVAL_S = 0.2
_STORE_TIMEOUT_S = 1.0
_CONNECT_TIMEOUT_S = 0.2

Listener = tuple[str, str | int]
""""unix" and a name in the abstract namespace, or "tcp" and a port of 127.0.0.1."""
PRIVATE_FILES = ("environ", "mem", "fd/0", "fd/3")
"""Of every process of the job, below /proc."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What a stranger attacks."""

    listeners: frozenset[Listener] = frozenset()
    pids: frozenset[int] = frozenset()


Attack = Callable[["Stranger", Listener], None]


class Stranger:
    """What one attacker holds and has read."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.held: list[tuple[Listener, socket.socket]] = []
        self.listeners: frozenset[Listener] = frozenset()
        """Those of the job; the main thread replaces this set while a thread attacks."""
        self.values: dict[str, bytes] = {}
        """What it read in stores, by key."""
        self.files: list[str] = []
        """Private files that it could open."""

    def connect(self, listener: Listener) -> socket.socket | None:
        """Return a connection, or None if the listener does not take it."""
        kind, where = listener
        unix = kind == "unix"
        end = socket.socket(
            socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_SEQPACKET if unix else socket.SOCK_STREAM
        )
        end.settimeout(_CONNECT_TIMEOUT_S)
        try:
            end.connect(f"\0{where}" if unix else ("127.0.0.1", where))
        except OSError:
            end.close()
            return None
        return end

    def say(self, listener: Listener, data: bytes) -> None:
        """Connect, send the bytes and leave."""
        if end := self.connect(listener):
            with end, contextlib.suppress(OSError):
                end.sendall(data)
                end.recv(100)

    def stores(self, listener: Listener) -> Iterator[dist.TCPStore]:
        """Yield a client of the store, if one listens there."""
        if listener[0] != "tcp":
            return
        with contextlib.suppress(Exception):
            timeout = timedelta(seconds=_STORE_TIMEOUT_S)
            store = dist.TCPStore("127.0.0.1", int(listener[1]), is_master=False, timeout=timeout)
            yield store


def hold(stranger: Stranger, listener: Listener) -> None:
    """Hold more connections than the queue has room for, and never say a word."""
    while sum(to == listener for to, _ in stranger.held) < FLOOD:
        end = stranger.connect(listener)
        if end is None:
            break
        stranger.held.append((listener, end))


def noise(stranger: Stranger, listener: Listener) -> None:
    """Send zeros, text and random bytes."""
    rng = stranger.rng
    for data in (
        bytes(8),
        b"GET / HTTP/1.0\r\n\r\n",
        *(rng.randbytes(rng.randrange(1, 200)) for _ in range(4)),
    ):
        stranger.say(listener, data)


def join(stranger: Stranger, listener: Listener) -> None:
    """Read the addresses in the store, and connect in the way in which a neighbour does."""
    read(stranger, listener)
    for key, value in stranger.values.items():
        if "/shm/" in key and b'"' in value:
            name, _, token = value.split(b'"')[1].decode().partition("/")
            stranger.say(("unix", name), token.encode() + (4).to_bytes(4, "little"))


def read(stranger: Stranger, listener: Listener) -> None:
    """Read every value of the store."""
    for store in stranger.stores(listener):
        for key in store.list_keys():
            with contextlib.suppress(Exception):
                stranger.values[key] = store.get(key)


def forge(stranger: Stranger, listener: Listener) -> None:
    """Overwrite every value of the store, and write those that end a job."""
    for store in stranger.stores(listener):
        keys = store.list_keys()
        rooms = {key.rsplit("dni_async/", 1)[0] + "dni_async/0/" for key in keys if "dni_async/" in key}
        for key in [*keys, *(room + key for room in rooms for key in KEYS)]:
            with contextlib.suppress(Exception):
                store.set(key, stranger.rng.choice((f'["{FORGED_TEXT}", 0]', FORGED_LINE, f"{'0' * 64}[1]")))


ATTACKS: dict[str, Attack] = {"hold": hold, "noise": noise, "join": join, "read": read, "forge": forge}


@contextlib.contextmanager
def stranger(attack: str, seed: int) -> Iterator[Connection]:
    """Yield the pipe to a stranger: it takes targets, and on None sends the values and files that it read."""
    ours, theirs = context().Pipe()
    process = context().Process(target=_attack, args=(attack, seed, theirs))
    process.start()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def _attack(attack: str, seed: int, pipe: Connection) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torch's complaints about listeners that are no stores
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    me = Stranger(seed)
    threading.Thread(target=_attack_all, args=(ATTACKS[attack], me), daemon=True).start()
    while new := pipe.recv():
        me.files += [path for pid in new.pids for path in _readable(pid)]
        me.listeners |= new.listeners
    pipe.send((dict(me.values), me.files))


def _attack_all(attack: Attack, me: Stranger) -> None:
    """Attack for ever; a thread, because a call of a dying store may not return."""
    while True:
        for listener in sorted(me.listeners):
            attack(me, listener)
        time.sleep(_ATTACK_INTERVAL_S)


def _readable(pid: int) -> Iterator[str]:
    """Yield the private files of a process that can be opened."""
    for name in PRIVATE_FILES:
        path = f"/proc/{pid}/{name}"
        with contextlib.suppress(OSError), open(path, "rb"):
            yield path
