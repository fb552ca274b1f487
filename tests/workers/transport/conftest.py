"""Both ends of one shared-memory channel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workers.helpers import shm_channel
from tests.workers.transport.conformance import nothing_left_open
from tests.workers.transport.gradients import Ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    with nothing_left_open():
        sender, receiver = shm_channel(2)
        with sender, receiver:
            yield sender, receiver
