"""Two stages and the channels between them, in one process: a stage "dies" when its ends are forgotten."""

from __future__ import annotations

from collections.abc import Callable

from dni_async.messages import Message
from tests.dni_async.helpers import show
from workers.recovery.journal import Journal
from workers.recovery.lasting import LastingReceiver, LastingSender
from workers.recovery.numbered import NumberedSource
from workers.recovery.stable import Stable

CAPACITY = 3


class Upper:
    """Stage 0: numbers messages and sends them on."""

    def __init__(self, stable: Stable, address: str) -> None:
        self.stable, self.address = stable, address
        self.live()

    def live(self) -> None:
        """A new process."""
        self.journal = Journal(self.stable.journal, 5.0)
        self.outbox = self.stable.outboxes[1]
        self.outbox.open(pin=False)
        self.sender = LastingSender(1, self.address, self.outbox, self.journal, 5.0)

    def die(self) -> None:
        self.sender.close()

    def handled(self) -> int:
        return self.journal.taken("source")[0]

    def send(self, message: Message, until: Callable[[], None] = lambda: None) -> None:
        """Handle one message of the stream; `until` may raise before the journal says so."""
        source = NumberedSource(iter([message]), self.journal)
        self.sender.send(source.recv(0.0), 0.0)
        until()
        source.release()


class Lower:
    """Stage 1: takes messages."""

    def __init__(self, stable: Stable) -> None:
        self.stable = stable
        self.taken: list[str] = []
        self.live()

    def live(self) -> None:
        """A new process."""
        self.journal = Journal(self.stable.journal, 5.0)
        self.receiver = LastingReceiver(self.stable.listeners[0], self.journal, "from 0")

    def die(self) -> None:
        self.receiver.close()

    def take(self, until: Callable[[], None] = lambda: None) -> str:
        """Handle the next message; `until` may raise before the journal says so."""
        message = self.receiver.recv(5.0)
        until()
        self.taken.append(show(message))
        self.receiver.release()
        return self.taken[-1]
