"""What outlives the process of a stage: created by its supervisor, inherited by the processes it forks."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from workers.recovery.atomic_buffer import AtomicBuffer
from workers.recovery.send_log import SendLog
from workers.transport.addresses import listening_host
from workers.transport.base import check_capacity
from workers.transport.handshake import new_secret
from workers.transport.shm import ShmListener
from workers.transport.tcp_listener import listen_at


@dataclass(slots=True)
class TcpSocket:
    """Where the sender of one TCP channel connects."""

    host: str
    listener: socket.socket
    secret: bytes = field(default_factory=new_secret)
    """Of the channel, in a job that has no secret of its own."""

    @property
    def port(self) -> int:
        """The port of the listener."""
        return int(self.listener.getsockname()[1])


@dataclass(slots=True)
class StableStorage:
    """Memory and sockets of one stage."""

    listeners: dict[int, ShmListener]
    """By neighbour."""
    send_logs: dict[int, SendLog]
    """By neighbour."""
    tcp_sockets: dict[int, TcpSocket] = field(default_factory=dict)
    """By neighbour; none in a job that has no link over TCP."""
    journal: AtomicBuffer = field(default_factory=AtomicBuffer)
    record: AtomicBuffer = field(default_factory=AtomicBuffer)
    """State of rank 0's recorder; the journal says which version counts."""
    last_error: AtomicBuffer = field(default_factory=AtomicBuffer)
    """The line of an error by which a process of the stage ended."""
    restarts: int = 0
    """How often the stage was restarted."""

    @classmethod
    def create(cls, rank: int, world: int, capacity: int, tcp: bool = False) -> StableStorage:
        """Storage for stage `rank` of `world`, whose channels hold `capacity` messages.

        Args:
            tcp: whether neighbours may connect over TCP.

        Raises:
            ValueError: the capacity is not possible.
            UserError: this host has no address to listen on.
        """
        check_capacity(capacity)
        neighbours = [n for n in (rank - 1, rank + 1) if 0 <= n < world]
        storage = cls({n: ShmListener(n) for n in neighbours}, {n: SendLog(capacity) for n in neighbours})
        if tcp:
            host = listening_host()
            storage.tcp_sockets = {n: TcpSocket(host, listen_at(host)) for n in neighbours}
        return storage

    def close(self) -> None:
        """Free everything: a neighbour that connects from now on learns that the stage is gone."""
        for buffer in (self.journal, self.record, self.last_error):
            buffer.close()
        for listener in self.listeners.values():
            listener.close()
        for tcp in self.tcp_sockets.values():
            tcp.listener.close()
        for send_log in self.send_logs.values():
            send_log.destroy()
