"""The stream in which one end of a `dist` channel sends or receives, apart from computation and other ends.

    compute stream   ── forward ──┬── sg ── backward ────────────── ...
    lane of a sender              └── send A ······ (until the peer receives) ── done
    lane of a receiver            ··· receive T ── done

NCCL works in the order of the stream from which it is called. On one stream for all of them a send that waits
for its receiver holds up the receive behind it, and two neighbours that send to each other wait for ever:

    stage i   send A | receive T        stage j   send T | receive A

A lane without an accelerator is that of a CPU: everything is done when the call returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from workers.runtime.accelerator import Accelerator, Event, wait_for


class Lane:
    """A stream of its own. Use it in one thread.

    Args:
        timeout: seconds that its work may last.
    """

    def __init__(self, accelerator: Accelerator | None, timeout: float) -> None:
        self._accelerator, self._timeout = accelerator, timeout
        self._stream = accelerator.new_stream() if accelerator else None

    def enter_thread(self) -> None:
        """Prepare the thread that uses the lane."""
        if self._accelerator:
            self._accelerator.enter_thread()

    @contextmanager
    def work(self, tensors: Sequence[Tensor] = (), computed: Event | None = None) -> Iterator[None]:
        """Do the calls of the block in the lane, and wait at its end until they are done.

        Args:
            tensors: what they read; its memory is kept until then.
            computed: when the tensors are computed.

        Raises:
            TransportTimeout: they were not done in time.
        """
        if self._accelerator is None or self._stream is None:
            yield
            return
        if computed is not None:
            self._stream.wait_event(computed)
        with self._accelerator.use(self._stream):
            yield
            for tensor in tensors:
                if self._accelerator.holds(tensor):
                    self._accelerator.record_use(tensor, self._stream)
            wait_for(self._stream.record_event(), self._timeout, "a transfer of the GPU")

    def hand_over(self, tensors: Sequence[Tensor]) -> None:
        """Let layers use tensors that were allocated in the lane: their memory is not used again before."""
        if self._accelerator:
            for tensor in tensors:
                if self._accelerator.holds(tensor):
                    self._accelerator.record_use(tensor, self._accelerator.compute_stream())

    def computed(self, tensors: Sequence[Tensor]) -> Event | None:
        """Return the event after which these tensors, computed by this thread, may be read."""
        if self._accelerator and any(self._accelerator.holds(tensor) for tensor in tensors):
            return self._accelerator.current_stream().record_event()
        return None
