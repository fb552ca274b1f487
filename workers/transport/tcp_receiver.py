"""The end of a TCP channel that messages come out of; `workers.transport.tcp` has the protocol."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import deque
from collections.abc import Sequence

from dni_async.messages import Message
from workers.runtime.cuda import current_accelerator
from workers.transport.base import PeerGone, TransportError
from workers.transport.queues import Inbox, QueueReceiver
from workers.transport.slots import Slot
from workers.transport.tcp_credits import CREDIT
from workers.transport.tcp_socket import NO_WAIT, cause, half_close, receive_into, shut_down
from workers.transport.wire import HEADER_BYTES, Header, WireError, assemble, decode

_GROWTH = 1.25


class TcpReceiver(QueueReceiver):
    """Made by `TcpListener.accept`. A thread per connection reads into slots and puts messages in order.

    There are as many slots as credits, so a thread never waits for the stage.
    """

    prefix_bytes = 0
    """Bytes in front of each header."""

    def __init__(self, peer: int, connections: Sequence[socket.socket], capacity: int, pin: bool) -> None:
        super().__init__(peer, Inbox())
        self._connections = connections
        self._pin = pin
        self._accelerator = current_accelerator() if pin else None
        self._lock = threading.Lock()
        self._unmade = capacity
        self._free: list[Slot] = []
        self._in_use: deque[Slot] = deque()
        """Those of the messages in the inbox and of the borrowed ones, oldest first."""
        self._early: dict[int, tuple[Message, Slot] | None] = {}
        """What has overtaken others, by number; None is the end."""
        self._next = 0
        self._owed = b""
        self._threads = [
            threading.Thread(target=self._run, args=(index,), name=f"tcp from {peer}", daemon=True)
            for index in range(len(connections))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Close the connections, which the sender notices; what was not received is dropped."""
        shut_down(self._connections)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()
        self._inbox.close()
        for slot in [*self._free, *self._in_use]:
            slot.close()
        self._free.clear()
        self._in_use.clear()
        self._unreleased = 0

    def _return_credit(self) -> None:
        slot = self._in_use.popleft()
        if slot.is_referenced():  # a module keeps its input: the memory is left to it
            slot.close()
            with self._lock:
                self._unmade += 1
        else:
            self._free.append(slot)
        self._owed += CREDIT
        with contextlib.suppress(BlockingIOError, OSError):  # no room (later, then), or nobody to tell
            self._owed = self._owed[self._connections[0].send(self._owed, NO_WAIT) :]

    def _run(self, index: int) -> None:
        """Read the messages of one connection until the sender's end; the thread's body."""
        packed = bytearray(self.prefix_bytes + HEADER_BYTES)
        connection = self._connections[index]
        try:
            if self._accelerator is not None:
                self._accelerator.enter_thread()
            for number in itertools.count(index, len(self._connections)):
                if not receive_into(connection, packed):
                    self._arrive(number, None)
                    return
                packet = bytes(packed)
                header = decode(packet, self.prefix_bytes)
                slot = self._take_slot(header.payload_bytes)
                if header.payload_bytes and not receive_into(connection, slot.memory(header.payload_bytes)):
                    raise ConnectionResetError("the connection ended in the middle of a message")
                self._arrive(number, (self._received(packet, header, slot), slot))
        except (TransportError, WireError) as error:
            self._fail(TransportError(str(error)))
        except OSError as error:
            self._fail(PeerGone(f"stage {self.peer} is gone ({cause(error)})"))
        except Exception as error:  # of CUDA, for instance: whoever waits for this thread must know
            self._fail(TransportError(f"{type(error).__name__}: {error}"))

    def _received(self, packet: bytes, header: Header, slot: Slot) -> Message:
        """What is put into the inbox for a packet whose payload is in the slot."""
        return assemble(header, slot.lend(header.specs))

    def _fail(self, error: TransportError) -> None:
        self._inbox.fail(error)
        shut_down(self._connections)

    def _arrive(self, number: int, what: tuple[Message, Slot] | None) -> None:
        """Put everything into the inbox whose turn it is."""
        with self._lock:
            self._early[number] = what
            while self._next in self._early:
                following = self._early.pop(self._next)
                if following is None:
                    came = f"after {self._next} messages from it"
                    self._inbox.fail(PeerGone(f"stage {self.peer} closed its end ({came})"))
                    half_close(self._connections)  # tells the sender that all of it has arrived
                    return
                message, slot = following
                self._in_use.append(slot)
                self._inbox.put(message)
                self._next += 1

    def _take_slot(self, size: int) -> Slot:
        """A free slot, made or replaced where there is none of that size."""
        with self._lock:
            if not (self._free or self._unmade):
                raise TransportError(f"stage {self.peer} sent more messages than it had credits for")
            slot = self._free.pop() if self._free else None
            self._unmade -= slot is None
        if slot is not None and slot.size >= size:
            return slot
        larger = Slot.create(max(size, int(slot.size * _GROWTH) if slot else 0), self._pin)
        larger.forget_descriptor()
        if slot is not None:
            slot.close()
        return larger
