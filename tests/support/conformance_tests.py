"""The tests of a transport that runs in threads and in processes.

A test file makes a subclass and the fixtures `in_threads` and `in_processes`.
"""

from __future__ import annotations

import pytest

from tests.support.conformance import KILLED, NAMES
from tests.support.conformance_runs import Outcome


class ConformanceTests:
    @pytest.mark.parametrize("name", NAMES)
    def test_conforms_in_threads(self, in_threads: Outcome, name: str) -> None:
        in_threads.check(name)

    @pytest.mark.parametrize("name", NAMES)
    def test_conforms_in_processes(self, in_processes: Outcome, name: str) -> None:
        in_processes.check(name)

    def test_a_killed_peer_is_noticed(self, in_processes: Outcome) -> None:
        in_processes.check(KILLED, ranks=(0,))
