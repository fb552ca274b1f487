"""Links by name, and links of a latency and a rate of one's own."""

from __future__ import annotations

import pytest

from dni_async.errors import UserError
from launch.local.wan import Wire
from launch.planning.link_presets import DeviceLink


@pytest.mark.parametrize(
    ("text", "latency_s", "bytes_per_s", "between_hosts"),
    [
        ("nvlink", 5e-6, 450e9, False),
        ("pcie", 1e-5, 25e9, False),
        ("ethernet", 5e-5, 1.25e9, True),
        ("wan:50ms,100mbit", 0.05, 12.5e6, True),
        ("wan:0.5s,1gbit", 0.5, 125e6, True),
        ("wan:20us,800kbit", 2e-5, 1e5, True),
    ],
)
def test_a_link_has_a_latency_and_a_rate(
    text: str, latency_s: float, bytes_per_s: float, between_hosts: bool
) -> None:
    link = DeviceLink.parse(text)
    assert (link.wire.latency_s, link.wire.bytes_per_s) == pytest.approx((latency_s, bytes_per_s))
    assert link.between_hosts == between_hosts


def test_the_link_says_its_numbers() -> None:
    assert str(DeviceLink.parse("wan:50ms,100mbit")) == "wan (50 ms one way, 0.1 Gbit/s)"
    assert DeviceLink.parse("pcie").wire == Wire(1e-5, 25e9)


@pytest.mark.parametrize(
    "text", ["wan:50,100", "wan:50ms", "wan:-1ms,1mbit", "wan:1ms,0mbit", "wan:100s,1mbit", "wan:x"]
)
def test_a_bad_wan_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^link is wan"):
        DeviceLink.parse(text)


@pytest.mark.parametrize("text", ["", "carrier-pigeon", "wan", "PCIE"])
def test_an_unknown_link_is_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(UserError, match=r"^unknown link \(.*\); use nvlink, pcie, ethernet, or wan:50ms"):
        DeviceLink.parse(text)
