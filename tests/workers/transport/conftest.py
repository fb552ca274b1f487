"""Both ends of one shared-memory channel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.channels import shm_channel
from tests.support.conformance_runs import nothing_left_open
from tests.support.gradients import ShmPair


@pytest.fixture
def ends() -> Iterator[ShmPair]:
    with nothing_left_open():
        sender, receiver = shm_channel(2)
        with sender, receiver:
            yield sender, receiver
