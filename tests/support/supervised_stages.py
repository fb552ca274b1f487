"""Two stages and the channels between them, in one process: a stage "dies" when its ends are forgotten."""

from __future__ import annotations

from collections.abc import Callable

from dni_async.messages import Message
from tests.support.stages import show
from workers.recovery.journal import Journal, JournaledSource
from workers.recovery.reconnecting_channel import ReconnectingReceiver, ReconnectingSender
from workers.recovery.stable_storage import StableStorage

CAPACITY = 3


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
        self.sender = ReconnectingSender(1, self.address, self.send_log, self.journal, 5.0)

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
