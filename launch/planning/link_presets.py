"""What `--link` means: latency one way, and the rate at which each device sends.

    nvlink       5 us    450 GB/s     NVLink 4, all 18 links
    pcie         10 us   25 GB/s      PCIe 4.0, 16 lanes
    ethernet     50 us   10 Gbit/s
    wan:50ms,100mbit                  any other; units us, ms, s and kbit, mbit, gbit

The first three are assumptions about usual hardware, not measurements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dni_async.errors import UserError
from launch.local.wan import Wire

LINKS: Mapping[str, Wire] = MappingProxyType(
    {"nvlink": Wire(5e-6, 450e9), "pcie": Wire(10e-6, 25e9), "ethernet": Wire(50e-6, 10e9 / 8)}
)
BETWEEN_HOSTS = ("ethernet", "wan")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES_PER_S = {"kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8}
_NUMBER = r"(\d+(?:\.\d+)?)"
_WAN = re.compile(rf"wan:{_NUMBER}({'|'.join(_SECONDS)}),{_NUMBER}({'|'.join(_BYTES_PER_S)})")


@dataclass(frozen=True, slots=True)
class DeviceLink:
    """What joins any two devices."""

    name: str
    wire: Wire

    @classmethod
    def parse(cls, text: str) -> DeviceLink:
        """Return the link that an option names. Raises UserError."""
        if text in LINKS:
            return cls(text, LINKS[text])
        if not text.startswith("wan:"):
            raise UserError(f"unknown link ({text}); use {', '.join(LINKS)}, or wan:50ms,100mbit")
        found = _WAN.fullmatch(text)
        if not found:
            raise UserError(f"link is {text}; write wan:LATENCY,RATE (one way), such as wan:50ms,100mbit")
        latency, unit, rate, rate_unit = found.groups()
        wire = Wire(float(latency) * _SECONDS[unit], float(rate) * _BYTES_PER_S[rate_unit])
        if not (wire.latency_s < 100 and 0 < wire.bytes_per_s < 1e15):
            raise UserError(f"link is {text}; the latency must be below 100 s, the rate above 0")
        return cls("wan", wire)

    @property
    def between_hosts(self) -> bool:
        """Whether devices on different hosts are joined."""
        return self.name in BETWEEN_HOSTS

    def __str__(self) -> str:
        latency, rate = self.wire.latency_s * 1e3, self.wire.mbit_per_s / 1e3
        return f"{self.name} ({latency:g} ms one way, {rate:g} Gbit/s)"
