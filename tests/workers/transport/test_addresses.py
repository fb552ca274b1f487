"""Where the stages of a job listen, and what a user reads who named a wrong place."""

from __future__ import annotations

import ipaddress
import socket

import psutil
import pytest

from dni_async.errors import UserError
from workers.transport.addresses import connecting_host, listening_host


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_a_master_the_address_is_loopback() -> None:
    assert listening_host() == "127.0.0.1"


@pytest.mark.parametrize("name", ["lo", "lo,eth0"])
def test_an_interface_that_is_named_is_taken(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv("GLOO_SOCKET_IFNAME", name)
    environment.setenv("MASTER_ADDR", "no.such.host.invalid")
    assert listening_host() == "127.0.0.1"


@pytest.mark.parametrize("master", ["localhost", "127.0.0.1", "127.0.1.1"])
def test_a_master_on_loopback_means_all_interfaces_and_the_name_that_others_know(
    environment: pytest.MonkeyPatch, master: str
) -> None:
    environment.setenv("MASTER_ADDR", master)
    assert listening_host() == ""
    environment.setenv("MASTER_ADDR", "node0")
    assert connecting_host("") == "node0"
    assert connecting_host("192.0.2.9") == "192.0.2.9"


def test_the_address_is_that_of_the_interface_by_which_the_master_is_reached(
    environment: pytest.MonkeyPatch,
) -> None:
    own = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not ipaddress.ip_address(address.address).is_loopback
    }
    if not own:
        pytest.skip("this host has the loopback interface only")
    environment.setenv("MASTER_ADDR", min(own))
    assert listening_host() == min(own)


def test_an_interface_that_does_not_exist_is_one_line(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GLOO_SOCKET_IFNAME", "eth97")
    line = r"^interface eth97 \(GLOO_SOCKET_IFNAME\) does not exist on this host, which has .*\blo\b.*$"
    with pytest.raises(UserError, match=line):
        listening_host()


def test_an_interface_without_an_address_is_one_line(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GLOO_SOCKET_IFNAME", "bare")
    environment.setattr(psutil, "net_if_addrs", lambda: {"bare": []})
    with pytest.raises(UserError, match=r"^interface bare \(GLOO_SOCKET_IFNAME\) has no IP address"):
        listening_host()


def test_a_master_that_does_not_resolve_is_one_line(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_ADDR", "no.such.host.invalid")
    with pytest.raises(
        UserError, match=r"^MASTER_ADDR is no\.such\.host\.invalid, which cannot be reached \("
    ):
        listening_host()
