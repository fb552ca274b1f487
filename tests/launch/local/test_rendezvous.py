"""The store of a job on this machine: for this machine only, and one for each job."""

from __future__ import annotations

import socket
from datetime import timedelta

import psutil
import pytest
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousParameters, rendezvous_handler_registry

from launch.local.rendezvous import HOST, NAME, LoopbackRendezvous, register


def listening_at(port: int) -> set[str]:
    """Addresses at which this process listens to a port."""
    found = psutil.Process().net_connections(kind="inet")
    return {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN and c.laddr.port == port}


def test_the_store_listens_on_the_loopback_interface_only() -> None:
    assert listening_at(LoopbackRendezvous("a").port) == {"127.0.0.1"}


def test_ranks_meet_in_the_store_and_again_after_a_restart() -> None:
    handler = LoopbackRendezvous("job")
    first, second = handler.next_rendezvous(), handler.next_rendezvous()
    assert (first.rank, first.world_size) == (0, 1)
    place = first.bootstrap_store_info
    assert place is not None and handler.use_agent_store
    assert (place.master_addr, place.master_port) == (HOST, handler.port)
    rank = dist.TCPStore(place.master_addr, place.master_port, is_master=False, timeout=timedelta(seconds=20))
    dist.PrefixStore("job", rank).set("key", "value")
    assert first.store.get("key") == second.store.get("key") == b"value"
    assert (handler.get_backend(), handler.get_run_id(), handler.is_closed()) == (NAME, "job", False)
    assert handler.num_nodes_waiting() == 0 and handler.shutdown()


def test_two_jobs_have_two_stores() -> None:
    a, b = LoopbackRendezvous("a"), LoopbackRendezvous("a")
    assert a.port != b.port
    a.next_rendezvous().store.set("key", "a")
    assert not b.next_rendezvous().store.check(["key"])


def test_the_launcher_creates_the_store_by_name_and_port() -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    assert register() == register() == NAME
    parameters = RendezvousParameters(NAME, f"{HOST}:{port}", "job", 1, 1)
    handler = rendezvous_handler_registry.create_handler(parameters)
    assert isinstance(handler, LoopbackRendezvous) and (handler.port, handler.get_run_id()) == (port, "job")


def test_the_store_refuses_a_taken_port() -> None:
    with socket.create_server((HOST, 0)) as other, pytest.raises(OSError, match="in use"):
        LoopbackRendezvous("job", other.getsockname()[1])
