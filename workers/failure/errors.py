"""Exceptions that end a rank, and the exit status and line that belong to an error.

UserError                 one line, exit status 2
StageError, PeerGone      one line naming stage and step, exit status 1
SIGINT, SIGTERM           one line, exit status 130 or 143
StdoutClosed              no line, exit status 141, as if SIGPIPE had ended the process
anything else             one line naming the error, exit status 1
"""

from __future__ import annotations

import select

from dni_async.errors import Late, StageCrash, StageError, UserError
from workers.failure.failure_file import STDOUT_CLOSED
from workers.failure.signals import Stopped
from workers.failure.users_code import place_of, root_cause
from workers.transport.base import TransportError, TransportTimeout, timed_out
from workers.transport.wire import WireError

_EXPECTED = (UserError, StageError, Stopped)
"""Errors whose message was written for the user."""


class AlreadyReported(Exception):
    """A process of the job has failed and has already printed why; the message repeats its line."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


class StdoutClosed(StageError):
    """Nobody reads standard output any more, as in `... | head`: the process ends without a line."""

    status = STDOUT_CLOSED


def exit_status(error: BaseException) -> int:
    """Exit status of a process that ends by `error`."""
    if isinstance(error, UserError | StageError | AlreadyReported):
        return error.status
    return 128 + error.signum if isinstance(error, Stopped) else 1


def format_error(error: BaseException) -> str:
    """The error in one line; the class name is included unless the message was written for the user, and the
    place if the error came from the user's code."""
    text = " ".join(str(error).split())
    line = text if isinstance(error, _EXPECTED) else f"{type(error).__name__}: {text}"
    place = _place(error)
    return f"{line} ({place})" if place else line


def is_unexpected(error: BaseException) -> bool:
    """Whether the error is of the user's code, or a fault of this program, so that its traceback matters."""
    if isinstance(error, StageCrash):
        return not isinstance(root_cause(error), TransportError | WireError)
    return bool(_place(error)) or not isinstance(error, (*_EXPECTED, AlreadyReported))


def _place(error: BaseException) -> str:
    """The place in the user's code that the error comes from, if the user's code did not explain it."""
    return "" if isinstance(root_cause(error), _EXPECTED) else place_of(error)


def at_position(error: Exception, position: str) -> StageError | UserError:
    """A stage's error as one for the user that names the position; a StageCrash if it may not come again."""
    says_it_all = isinstance(error, RuntimeError | ValueError | TypeError)
    line = f"{position}: {error}" if says_it_all else f"{position}: {type(error).__name__}: {error}"
    if isinstance(error, Late | TransportTimeout):
        return Late(line, getattr(error, "peers", ()))
    if isinstance(error, UserError):
        return UserError(line)
    return (StageError if isinstance(error, StageError | TransportError | WireError) else StageCrash)(line)


def is_timeout(error: BaseException) -> bool:
    """Whether a wait has reached its deadline, ours or torch's."""
    if isinstance(error, UserError | StageError):
        return isinstance(error, Late)
    return isinstance(error, TransportTimeout) or (isinstance(error, RuntimeError) and timed_out(error))


def caused_by_closed_stdout(error: BaseException) -> bool:
    """Whether the error came from writing to a pipe while stdout or stderr has no reader any more."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:  # the chain of causes may be a circle
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if not any(isinstance(cause, BrokenPipeError) for cause in chain):
        return False
    poller = select.poll()
    for stream in (1, 2):
        poller.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
