"""Which transport connects which stages, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from dni_async.errors import UserError
from workers.transport.links import Link, LinkRequest, Transport
from workers.transport.registry import (
    AUTO,
    ENCRYPTED_AUTO,
    TRANSPORTS,
    check_encryption,
    check_transports,
    choose_transports,
    find_transport,
)


@pytest.mark.parametrize(
    ("asked", "hosts", "chosen"),
    [
        ("auto", "a", []),
        ("auto", "aa", ["shm"]),
        ("auto", "ab", ["tcp"]),
        ("auto", "aabb", ["shm", "tcp", "shm"]),
        ("shm", "aaa", ["shm", "shm"]),
        ("dist", "aab", ["dist", "dist"]),
        ("rpc", "ab", ["rpc"]),
        ("shm,dist,rpc", "aaab", ["shm", "dist", "rpc"]),
        ("rpc,auto,auto", "aaab", ["rpc", "shm", "tcp"]),
    ],
)
def test_the_choice_for_each_request_and_hosts(asked: str, hosts: str, chosen: list[str]) -> None:
    assert choose_transports(asked, hosts) == chosen


def test_encrypted_links_are_chosen_between_hosts() -> None:
    assert choose_transports("auto", "aab", encrypt=True) == ["shm", "tls"]
    assert all(
        find_transport(name).encrypts or find_transport(name).same_host_only for name in ENCRYPTED_AUTO
    )


@pytest.mark.parametrize("name", ["tcp", "dist", "rpc", "shm,tcp"])
def test_a_transport_that_does_not_encrypt_is_refused_where_it_should(name: str) -> None:
    with pytest.raises(UserError, match=r"which does not encrypt; use auto or tls, or leave out --encrypt$"):
        check_encryption(name)
    check_encryption("auto")
    check_encryption("shm,tls")


@pytest.mark.parametrize(("asked", "hosts", "link"), [("shm", "ab", (0, 1)), ("shm,shm", "aab", (1, 2))])
def test_shm_between_hosts_is_refused(asked: str, hosts: str, link: tuple[int, int]) -> None:
    text = rf"transport shm needs stages {link[0]} and {link[1]} on one host; use auto or tcp"
    with pytest.raises(UserError, match=text):
        choose_transports(asked, hosts)


@pytest.mark.parametrize(("asked", "named", "stages"), [("shm,dist", 2, 2), ("shm,dist", 2, 4)])
def test_a_wrong_number_of_names_is_refused(asked: str, named: int, stages: int) -> None:
    text = rf"transport {asked} names {named} links, but {stages} stages have {stages - 1}"
    with pytest.raises(UserError, match=text):
        choose_transports(asked, "a" * stages)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_every_registered_transport_is_found(name: str) -> None:
    assert isinstance(find_transport(name), Transport)


def test_auto_takes_no_transport_that_needs_a_trusted_network() -> None:
    assert not any(find_transport(name).needs_trusted_network for name in AUTO)


def test_rpc_asks_for_the_flag_that_says_who_can_reach_it() -> None:
    with pytest.raises(UserError, match="can run code in the ranks; add --trust-network"):
        check_transports("shm,rpc", trust_network=False, supervise=False)
    check_transports("shm,rpc", trust_network=True, supervise=False)
    check_transports("auto,shm,dist,tcp", trust_network=False, supervise=False)


@pytest.mark.parametrize("name", ["dist", "rpc", "tcp,dist"])
def test_supervised_stages_have_links_that_outlast_their_connections(name: str) -> None:
    with pytest.raises(UserError, match="supervise needs shm or tcp on every link"):
        check_transports(name, trust_network=True, supervise=True)
    check_transports("auto,shm,tcp", trust_network=False, supervise=True)


@pytest.mark.parametrize("name", ["pigeon", "", "shm;dist"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"unknown transport \({name}\); use one of auto, shm, tcp, tls, dist, nccl, rpc"
    ):
        check_transports(name, trust_network=False, supervise=False)


class NoTransport:
    pass


class OfOneHost(Transport):
    same_host_only = True

    def open(self, request: LinkRequest) -> dict[int, Link]:
        return {}


def test_a_transport_of_the_users_is_named_by_its_path_and_asked_for_its_capabilities() -> None:
    path = f"{__name__}:{OfOneHost.__name__}"
    assert isinstance(find_transport(path), OfOneHost)
    assert choose_transports(path, "aa") == [path]
    with pytest.raises(UserError, match="OfOneHost needs stages 0 and 1 on one host"):
        choose_transports(path, "ab")
    with pytest.raises(UserError, match="supervise needs shm or tcp on every link"):
        check_transports(path, trust_network=False, supervise=True)
    with pytest.raises(UserError, match="no transport"):
        find_transport(f"{__name__}:{NoTransport.__name__}")
