"""Links over shared memory, also those of supervised stages."""

from __future__ import annotations

from typing_extensions import override

from workers.recovery.dialing import ShmDial
from workers.recovery.reconnecting_channel import ReconnectingSender
from workers.recovery.reconnecting_receiver import ReconnectingReceiver
from workers.transport.links import Link, LinkRequest, Transport, drain_at_end, publish_end
from workers.transport.packets import SPIN_S
from workers.transport.shm import ShmListener, connect


class ShmTransport(Transport):
    """Shared memory and Unix sockets (`workers.transport.shm`)."""

    same_host_only = True
    restartable = True

    @override
    def open(self, request: LinkRequest) -> dict[int, Link]:
        rendezvous, timeout = request.rendezvous, request.timeout
        rank, pin = rendezvous.rank, request.device.type == "cuda"
        storage, journal = request.recovery or (None, None)
        listeners = {n: storage.listeners[n] if storage else ShmListener(n) for n in request.neighbours}
        for n, listener in listeners.items():
            listener.pin = pin
            rendezvous.publish(f"shm/{n}-{rank}", listener.address)
        links = {}
        for n, listener in listeners.items():
            address = rendezvous.read(f"shm/{rank}-{n}", timeout)
            if storage is None or journal is None:
                sender = connect(address, n, request.capacity, timeout, pin)
                links[n] = request.link(sender, listener.accept(timeout))
                continue
            send_log = storage.send_logs[n]
            send_log.recover(pin)
            dial = ShmDial(address, n, send_log, timeout)
            lasting = ReconnectingSender(n, dial, send_log, journal, timeout, SPIN_S)
            links[n] = request.link(lasting, ReconnectingReceiver(listener, journal, f"from {n}", SPIN_S))
            drain_at_end(request, n, lasting)
        if storage:
            publish_end(request)
        return links
