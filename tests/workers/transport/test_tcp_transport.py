"""Links over TCP: who publishes what, and that a job's secret never travels."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack

import pytest
import torch
import torch.distributed as dist

from dni_async.errors import StageError
from tests.support.conformance import TEST_TIMEOUT_S
from tests.support.conformance_messages import assert_same
from tests.support.gradients import gradient
from workers.coordination.rendezvous import Rendezvous
from workers.transport.base import TransportError
from workers.transport.links import LinkRequest
from workers.transport.tcp import TcpTransport


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


def chain(store: dist.Store, secrets: tuple[bytes, ...], timeout: float = TEST_TIMEOUT_S) -> list[object]:
    """What each rank of a chain receives from its neighbours, or the error that ended it."""
    found: list[object] = [None] * len(secrets)

    def body(rank: int) -> None:
        rendezvous = Rendezvous(rank, len(secrets), rank, len(secrets), store, secret=secrets[rank])
        pairs = [(n, n + 1) for n in range(len(secrets) - 1)]
        stack = ExitStack()
        request = LinkRequest(rendezvous, pairs, 2, timeout, torch.device("cpu"), stack)
        try:
            links = TcpTransport().open(request)
            for link in links.values():
                link.sender.send(gradient(rank + 1), timeout)
            received = {n: link.receiver.recv(timeout) for n, link in links.items()}
            for n, message in received.items():
                assert_same(message, gradient(n + 1))
            stack.close()
            found[rank] = sorted(received)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=body, args=(rank,), daemon=True) for rank in range(len(secrets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT_S)
    return found


def published(store: dist.Store, key: str) -> str:
    return store.get(key).decode()


def test_every_pair_of_neighbours_talks_both_ways() -> None:
    assert chain(dist.HashStore(), (b"", b"", b"")) == [[1], [0, 2], [1]]


def test_a_jobs_secret_is_not_published() -> None:
    store = dist.HashStore()
    assert chain(store, (b"of the job", b"of the job")) == [[1], [0]]
    for key in ("tcp/0-1", "tcp/1-0"):
        signed = published(store, key)
        assert json.loads(signed[signed.index("[") :])[2] == ""
        assert b"of the job".hex() not in signed and "of the job" not in signed


def test_each_channel_of_a_job_without_a_secret_has_its_own() -> None:
    store = dist.HashStore()
    chain(store, (b"", b""))
    secrets = {json.loads(published(store, key))[2] for key in ("tcp/0-1", "tcp/1-0")}
    assert len(secrets) == 2 and all(len(bytes.fromhex(secret)) == 32 for secret in secrets)


def test_a_rank_of_another_job_does_not_get_in() -> None:
    """It reads the store of this one, and its own values are not taken for those of this job."""
    found = chain(dist.HashStore(), (b"of the job", b"of another"), timeout=2.0)
    assert all(isinstance(error, StageError | TransportError) for error in found), found
