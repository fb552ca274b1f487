"""Network interfaces that the user names."""

from __future__ import annotations

import pytest

from dni_async.errors import UserError
from workers.coordination.interfaces import INTERFACE, address_of, check_interfaces


@pytest.mark.parametrize("variable", [INTERFACE, "TP_SOCKET_IFNAME"])
def test_one_that_does_not_exist_is_named_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "nonexist0,lo")
    line = rf"^interface nonexist0 \({variable}\) does not exist on this host, which has .*lo"
    with pytest.raises(UserError, match=line):
        check_interfaces()


def test_those_that_exist_and_none_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERFACE, "lo")
    monkeypatch.delenv("TP_SOCKET_IFNAME", raising=False)
    check_interfaces()
    monkeypatch.delenv(INTERFACE)
    check_interfaces()
    assert address_of("lo") == "127.0.0.1"
