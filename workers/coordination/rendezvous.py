"""Who takes part, and the store in which ranks tell each other things."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from dni_async.errors import Late, StageError, UserError

LOOK = 0.02
"""Seconds between two looks into the store."""


@dataclass(slots=True)
class Rendezvous:
    """This rank's place in the job; rank i runs stage i."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    store: dist.Store
    """What ranks tell each other; empty after a restart, when nobody shall read what was before."""
    lasting: dist.Store | None = None
    """What a restarted job shall know of the one before; None where nobody would restart it."""
    restart: int = 0
    """How often the launcher has started the job anew."""
    max_restarts: int = 0
    """How often it would."""

    @classmethod
    def from_env(cls, timeout: float) -> Rendezvous:
        """Meet the other ranks by the variables that torchrun sets; alone when there are none.

        Raises UserError when the port is taken, StageError when the others do not come in time.
        """
        env = os.environ
        if "RANK" not in env:
            return cls(0, 1, 0, 1, dist.HashStore())
        try:
            store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
        except (dist.DistNetworkError, dist.DistStoreError, ValueError) as error:
            where = f"{env.get('MASTER_ADDR')}:{env.get('MASTER_PORT')}"
            if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
                raise UserError(f"the rendezvous port is in use ({where}); choose another") from error
            cause = str(error).splitlines()[0]
            raise StageError(f"rank {env['RANK']} could not meet the others at {where} ({cause})") from error
        store.set_timeout(timedelta(seconds=timeout))
        restart = int(env.get("TORCHELASTIC_RESTART_COUNT", 0))
        local = int(env.get("LOCAL_RANK", rank)), int(env.get("LOCAL_WORLD_SIZE", world))
        return cls(
            rank,
            world,
            *local,
            dist.PrefixStore(f"dni_async/{restart}", store),
            dist.PrefixStore("dni_async/lasting", store),  # torchrun's store outlives the ranks
            restart,
            int(env.get("TORCHELASTIC_MAX_RESTARTS", 0)),
        )

    def another(self, timeout: float) -> Rendezvous:
        """The same over a connection of its own: for a thread, as a store waits for one of them at a time.

        timeout: seconds that it waits for the store.
        """
        store = self.store.clone()  # type: ignore[attr-defined]  # public, but not in torch's stubs
        store.set_timeout(timedelta(seconds=timeout))
        return replace(self, store=store)

    def publish(self, key: str, value: Any) -> None:
        """Tell all ranks something JSON-able."""
        self.store.set(key, json.dumps(value))

    def publish_first(self, key: str, value: Any) -> None:
        """As `publish`, unless somebody has."""
        self.store.compare_set(key, "", json.dumps(value))

    def peek(self, key: str) -> Any:
        """What a rank published; None for nothing."""
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def read(self, key: str, timeout: float) -> Any:
        """What a rank published, waiting for it. Raises Late at the deadline.

        It looks again and again: in the store's own wait no signal would be heard, and a launcher that ends
        the ranks to start them anew waits 30 seconds for one that does not hear it.
        """
        deadline = time.monotonic() + timeout
        try:
            while not self.store.check([key]):
                if time.monotonic() > deadline:
                    raise Late(f"rank {self.rank} waited {timeout:g} s for '{key}' from another rank")
                time.sleep(LOOK)
        except dist.DistError as error:
            raise StageError(f"rank {self.rank} has lost the rendezvous store ({error})") from error
        return json.loads(self.store.get(key))

    def exchange(self, key: str, mine: Any, timeout: float) -> list[Any]:
        """What all ranks tell under this name, in their order; all must call it. Raises Late when one
        does not in time."""
        self.publish(f"{key}/{self.rank}", mine)
        return [self.read(f"{key}/{rank}", timeout) for rank in range(self.world)]

    def remember(self, key: str, value: Any) -> None:
        """Tell something JSON-able to those who come after a restart."""
        if self.lasting is not None:
            self.lasting.set(key, json.dumps([self.restart, value]))

    def recall(self, key: str) -> Any:
        """What was to be remembered by the ranks before this restart; None for nothing."""
        if self.lasting is None or not self.lasting.check([key]):
            return None
        then, value = json.loads(self.lasting.get(key))
        return value if then < self.restart else None

    def hosts(self, timeout: float) -> list[str]:
        """Where each rank runs; all ranks must call it. On one host their sockets stay within it."""
        hosts = self.exchange("host", host_identity(), timeout)
        if len(set(hosts)) == 1 and sys.platform == "linux":
            for backend in ("GLOO", "TP"):  # nobody else needs to reach us
                os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
        return hosts

    def sign_in(self) -> None:
        """Publish which process this rank is."""
        self.publish(f"process/{self.rank}", [host_identity(), os.getpid()])

    def gone_ranks(self) -> list[int]:
        """Ranks of this host whose process has ended. Never raises: it is asked when all goes down."""
        gone = []
        try:
            self.store.set_timeout(timedelta(seconds=1))
            for rank in range(self.world):
                host, pid = self.peek(f"process/{rank}") or (None, 0)
                if host == host_identity() and not _runs(pid):
                    gone.append(rank)
        except Exception:
            pass
        return gone

    def claim(self, key: str) -> bool:
        """Whether this rank is the first to ask for `key`."""
        mine = f"{self.rank}-{secrets.token_hex(8)}"
        return self.store.compare_set(key, "", mine).decode() == mine


def _runs(pid: int) -> bool:
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
