"""The event loop of a stage in somebody else's training loop: one call for one message from upstream.

    calls of the process     step()       step()       eval()      drain()
    from upstream            A7           A8           E0          REPORT
    from downstream               T6           T7 T8               T9 ... REPORT

Between two calls nothing is handled, and the neighbours feel back-pressure.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from dni_async.errors import StageError, UserError
from dni_async.messages import Activation, Marker, Message, goes_upstream
from dni_async.stage.stage import Stage
from workers.runtime.loop import StageLoop
from workers.runtime.sequence_check import SequenceCheck
from workers.transport.base import PeerGone


class CallCheck(SequenceCheck):
    """Checks also that the message from upstream is the one that this process has called for."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.expected = ""
        """The call that the next message from upstream has to belong to: step, eval or drain."""
        self.taken = 0
        """Messages from upstream so far."""
        self.returned = 0
        """Markers that came back from downstream."""

    @override
    def check(self, message: Message) -> None:
        if goes_upstream(message):
            self.returned += isinstance(message, Marker)
        else:
            if (came := call_of(message)) != self.expected:
                raise StageError(
                    f"this rank called {self.expected}() where the stage upstream called {came}(); make the "
                    "same calls on every rank"
                )
            self.taken += 1
        super().check(message)


def call_of(message: Message) -> str:
    """Return the call of stage 0 that has sent a message downstream."""
    if isinstance(message, Activation):
        return "step" if message.train else "eval"
    return "drain"


class SteppedLoop(StageLoop):
    """Handles messages only while one of its methods runs. See `StageLoop` for the arguments."""

    def __init__(self, stage: Stage, *arguments: Any, **settings: Any) -> None:
        super().__init__(stage, *arguments, **settings)
        self.calls = self.sequence_check = CallCheck(stage)
        self._takes_batches = True

    def take(self, call: str) -> None:
        """Handle all targets that have come, and the next message from upstream, which `call` is for.

        Raises StageError or UserError, both naming stage and step.
        """
        self.calls.expected, taken = call, self.calls.taken
        self.run_until(lambda: self.calls.taken > taken)

    def drain(self) -> None:
        """Take the marker from upstream, and handle all targets until it has come back."""
        returned = self.calls.returned
        self.take("drain")
        self._takes_batches = False
        self.run_until(lambda: self.stage.is_last or self.calls.returned > returned)
        self._takes_batches = True

    @override
    def _is_activation_due(self) -> bool:
        return self._takes_batches and super()._is_activation_due()

    @override
    def _explained(self, error: Exception) -> StageError | UserError:
        explained = super()._explained(error)
        if isinstance(error, PeerGone):
            return StageError(f"{explained}; unless it failed, it ended without drain()")
        return explained
