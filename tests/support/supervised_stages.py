"""Two stages and the channels between them, in one process: a stage "dies" when its ends are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from dni_async.messages import Activation, Message
from tests.support.stages import show
from workers.recovery.dialing import ShmDial
from workers.recovery.journal import Journal, JournaledSource
from workers.recovery.reconnecting_channel import ReconnectingSender
from workers.recovery.reconnecting_receiver import ReconnectingReceiver
from workers.recovery.stable_storage import StableStorage, TcpSocket
from workers.recovery.tcp_dial import TcpDial
from workers.recovery.tcp_reception import TcpReception

CAPACITY = 3


class Killed(Exception):
    """The process is gone at this point."""


def kill() -> None:
    raise Killed


def batch(step: int) -> Activation:
    return Activation(step, 0, torch.full((4, 3), float(step)), torch.arange(4))


class Upper:
    """Stage 0: numbers messages and sends them on."""

    def __init__(self, stable: StableStorage, address: str) -> None:
        self.stable, self.address = stable, address
        self.start()

    def start(self) -> None:
        """A new process."""
        self.journal = Journal(self.stable.journal, 5.0)
        self.send_log = self.stable.send_logs[1]
        self.send_log.recover(pin=False)
        self.sender = ReconnectingSender(
            1, ShmDial(self.address, 1, self.send_log, 5.0), self.send_log, self.journal, 5.0
        )

    def die(self) -> None:
        self.sender.close()

    def handled(self) -> int:
        return self.journal.delivered("source")[0]

    def send(self, message: Message, until: Callable[[], None] = lambda: None) -> None:
        """Handle one message of the stream; `until` may raise before the journal says so."""
        source = JournaledSource(iter([message]), self.journal)
        self.sender.send(source.recv(0.0), 0.0)
        until()
        source.release()


class Lower:
    """Stage 1: takes messages."""

    def __init__(self, stable: StableStorage) -> None:
        self.stable = stable
        self.taken: list[str] = []
        self.start()

    def start(self) -> None:
        """A new process."""
        self.journal = Journal(self.stable.journal, 5.0)
        self.receiver = ReconnectingReceiver(self.stable.listeners[0], self.journal, "from 0")

    def die(self) -> None:
        self.receiver.close()

    def take(self, until: Callable[[], None] = lambda: None) -> str:
        """Handle the next message; `until` may raise before the journal says so."""
        message = self.receiver.recv(5.0)
        until()
        self.taken.append(show(message))
        self.receiver.release()
        return self.taken[-1]


class TcpUpper(Upper):
    """Stage 0, connected over TCP."""

    def __init__(self, stable: StableStorage, socket: TcpSocket, timeout: float = 5.0) -> None:
        self.socket, self.timeout = socket, timeout
        super().__init__(stable, "")

    def start(self) -> None:
        self.journal = Journal(self.stable.journal, 5.0)
        self.send_log = self.stable.send_logs[1]
        self.send_log.recover(pin=False)
        address = self.socket.host, self.socket.port
        self.dial = TcpDial(address, self.socket.secret, 1, self.send_log, self.timeout)
        self.sender = ReconnectingSender(1, self.dial, self.send_log, self.journal, self.timeout)


class TcpLower(Lower):
    """Stage 1, connected over TCP."""

    def start(self) -> None:
        self.journal = Journal(self.stable.journal, 5.0)
        socket = self.stable.tcp_sockets[0]
        self.reception = TcpReception(0, socket.listener, socket.secret, 5.0)
        self.receiver = ReconnectingReceiver(self.reception, self.journal, "from 0")


def end(stages: Iterable[Upper | Lower]) -> None:
    """Let the stages die, and their supervisors, too."""
    for stage in stages:
        stage.die()
        stage.stable.close()
