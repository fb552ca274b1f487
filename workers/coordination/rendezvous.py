"""Who takes part in a job, and the store in which its ranks publish small values for each other."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch.distributed as dist

from dni_async.errors import Late, StageError
from workers.coordination.interfaces import check_interfaces
from workers.coordination.join_store import join_store, whole_number
from workers.coordination.secret_check import check_secrets
from workers.coordination.signing import ForgedValue, secret_from_env, sign, verify
from workers.coordination.store_connection import ask, poll
from workers.failure.signals import LAUNCHER

T = TypeVar("T")

_GONE_TIMEOUT_S = 1.0


@dataclass(slots=True)
class Rendezvous:
    """This rank's place in the job; rank i runs stage i. Published values must be JSON-able."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    store: dist.Store
    """What ranks publish; empty after a restart, so that nobody reads what was published before it."""
    persistent_store: dist.Store | None = None
    """What a restarted job reads of the one before; None if no launcher would restart the job."""
    restart: int = 0
    """How often the launcher has restarted the job."""
    max_restarts: int = 0
    """Restart limit."""
    secret: bytes = b""
    """Signs what is published; empty for no signatures."""

    @classmethod
    def from_env(cls, timeout: float) -> Rendezvous:
        """Join the other ranks by the variables that torchrun sets; a job of one rank if there are none.

        Raises UserError, and StageError, as `join_store`.
        """
        env = os.environ
        if "RANK" not in env:
            return cls(0, 1, 0, 1, dist.HashStore())
        store, rank, world = join_store(timeout)
        store.set_timeout(timedelta(seconds=timeout))
        restart, secret = whole_number("TORCHELASTIC_RESTART_COUNT"), secret_from_env()
        local = whole_number("LOCAL_RANK", default=rank), whole_number("LOCAL_WORLD_SIZE", 1, default=world)
        job = dist.PrefixStore(f"dni_async/{restart}", store)
        if LAUNCHER not in env:  # the local launcher hands out one secret
            check_secrets(job, rank, world, secret, timeout)
        return cls(
            rank,
            world,
            *local,
            job,
            dist.PrefixStore("dni_async/persistent", store),  # torchrun's store outlives the ranks
            restart,
            whole_number("TORCHELASTIC_MAX_RESTARTS"),
            secret,
        )

    def with_own_connection(self, timeout: float) -> Rendezvous:
        """The same rendezvous over a connection of its own, for use by another thread; an operation on the
        store may take `timeout` seconds."""
        store = self.store.clone()  # type: ignore[attr-defined]  # public, but not in torch's stubs
        store.set_timeout(timedelta(seconds=timeout))
        return replace(self, store=store)

    def publish(self, key: str, value: Any) -> None:
        """Publish a value for all ranks."""
        self._ask(partial(_set_and_check, key=key, value=self._sign(key, value)))

    def publish_first(self, key: str, value: Any) -> bool:
        """Publish a value unless there is one under this key already; returns whether this was the first."""
        mine = self._sign(key, value)
        there = self._ask(lambda store: store.compare_set(key, "", mine))
        if there == mine.encode():
            return True
        if self._verify(key, there) is None:  # forged
            self._ask(lambda store: store.set(key, mine))
            return True
        return False

    def claim(self, key: str) -> bool:
        """Whether this is the first call with `key` in the whole job."""
        return self.publish_first(key, f"{self.rank}-{secrets.token_hex(8)}")

    def peek(self, key: str) -> Any:
        """The value published under `key`; None if there is none."""
        data = self._ask(partial(_get, key=key))
        return None if data is None else self._verify(key, data)

    def peek_all(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values published under these keys, by key; without the keys that have none."""

        def ask(store: dist.Store) -> tuple[list[str], list[bytes]]:
            there = list(keys) if store.check(list(keys)) else [key for key in keys if store.check([key])]
            return there, store.multi_get(there) if there else []

        keys, data = self._ask(ask)
        values = {key: self._verify(key, each) for key, each in zip(keys, data, strict=True)}
        return {key: value for key, value in values.items() if value is not None}

    def read(self, key: str, timeout: float) -> Any:
        """The value published under `key`, waiting for it as `read_all` does."""
        return self.read_all([key], timeout)[0]

    def read_all(self, keys: Sequence[str], timeout: float) -> list[Any]:
        """The values under these keys, waiting up to `timeout` seconds for all together, open to signals.

        Raises:
            Late: the deadline was reached.
            StageError: the store is gone, or a value was not written by this job.
        """
        deadline = time.monotonic() + timeout
        return [self._read(key, deadline, timeout) for key in keys]

    def _read(self, key: str, deadline: float, timeout: float) -> Any:
        try:
            if not poll(lambda: self._ask(lambda store: store.check([key])), deadline - time.monotonic()):
                raise Late(f"rank {self.rank} waited {timeout:g} s for '{key}' from another rank")
            data = self._ask(lambda store: store.get(key))
        except dist.DistError as error:
            raise StageError(f"rank {self.rank} has lost the rendezvous store ({error})") from error
        try:
            return verify(self.secret, self._scoped(key), data)
        except ForgedValue:
            raise StageError(f"'{key}' in the rendezvous store was not written by this job") from None

    def all_gather(self, key: str, mine: Any, timeout: float) -> list[Any]:
        """The values of all ranks, by rank; every rank must call it. Raises Late if one does not within
        `timeout` seconds."""
        self.publish(f"{key}/{self.rank}", mine)
        return self.read_all([f"{key}/{rank}" for rank in range(self.world)], timeout)

    def publish_for_restart(self, key: str, value: Any) -> None:
        """Publish a value for the ranks of a restarted job."""
        if self.persistent_store is not None:
            question = partial(_set_and_check, key=key, value=sign(self.secret, key, [self.restart, value]))
            _, self.persistent_store = ask(self.persistent_store, question)

    def read_before_restart(self, key: str) -> Any:
        """The value that a rank published for this restart; None if there is none."""
        if self.persistent_store is None:
            return None
        data, self.persistent_store = ask(self.persistent_store, partial(_get, key=key))
        try:
            restart, value = (self.restart, None) if data is None else verify(self.secret, key, data)
        except ForgedValue:
            return None
        return value if restart < self.restart else None

    def gather_hosts(self, timeout: float) -> list[str]:
        """The host of each rank; every rank must call it. If all are equal, sockets stay on this host.

        Raises UserError if an interface that the user has named does not exist.
        """
        check_interfaces()
        hosts = self.all_gather("host", host_identity(), timeout)
        if len(set(hosts)) == 1 and sys.platform == "linux":
            for backend in ("GLOO", "TP"):  # nobody else needs to reach us
                os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
        return hosts

    def publish_process(self) -> None:
        """Publish the host and process id of this rank, for `gone_ranks`."""
        self.publish(f"process/{self.rank}", [host_identity(), os.getpid()])

    def gone_ranks(self) -> list[int]:
        """Ranks of this host whose process has ended. Never raises, since it is called during failures."""
        gone, timeout = [], self.store.timeout  # type: ignore[attr-defined]  # not in torch's stubs
        try:
            self.store.set_timeout(timedelta(seconds=_GONE_TIMEOUT_S))
            for rank in range(self.world):
                host, pid = self.peek(f"process/{rank}") or (None, 0)
                if host == host_identity() and not _is_running(pid):
                    gone.append(rank)
        except Exception:
            pass
        finally:
            self.store.set_timeout(timeout)
        return gone

    def _ask(self, question: Callable[[dist.Store], T]) -> T:
        """What the store answers; raises as `ask`."""
        answer, self.store = ask(self.store, question)
        return answer

    def _scoped(self, key: str) -> str:
        """The key with the restart, so that no value of an earlier start is accepted."""
        return f"{self.restart}/{key}"

    def _sign(self, key: str, value: Any) -> str:
        return sign(self.secret, self._scoped(key), value)

    def _verify(self, key: str, data: bytes) -> Any:
        """The value; None if it was not written by this job."""
        try:
            return verify(self.secret, self._scoped(key), data)
        except ForgedValue:
            return None


def _set_and_check(store: dist.Store, key: str, value: str) -> bool:
    """Set a value, and wait for an answer: a connection that breaks loses what nobody answers."""
    store.set(key, value)
    return bool(store.check([key]))


def _get(store: dist.Store, key: str) -> bytes | None:
    return store.get(key) if store.check([key]) else None


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def host_identity() -> str:
    """Equal for processes that share memory and sockets: one boot of one host, one network namespace."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/net"):
        try:
            parts.append(os.readlink(path) if path.endswith("net") else Path(path).read_text().strip())
        except OSError:
            parts.append("-")
    return "/".join(parts)
