"""The rpc transport: the conformance suite in two processes."""

import pytest

from tests.workers.transport.conformance import KILLED, NAMES, Outcome
from tests.workers.transport.processes import rpc_links, run_in_processes


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_in_processes(rpc_links, tmp_path_factory.mktemp("rpc"))


@pytest.mark.parametrize("name", NAMES)
def test_conforms(outcome: Outcome, name: str) -> None:
    outcome.check(name)


def test_a_killed_peer_is_noticed(outcome: Outcome) -> None:
    outcome.check(KILLED, ranks=(0,))
