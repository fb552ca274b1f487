"""The algorithm of decoupled neural interfaces, in one process: no transport, no threads, no clock.

    messages ─► stage ─► rules ─► synthesis ─► networks        one training batch, from the outside inwards

The names of the library are imported on demand: `from dni_async import DNI, CDNI, DNINetwork, LinearDNI`,
`from dni_async import from_module`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "dni_async.wrapper": ("DNI", "CDNI"),
    "dni_async.partition.from_module": ("from_module",),
    "dni_async.networks": (
        "DNINetwork",
        "LinearDNI",
        "LinearSigmoidDNI",
        "LinearBatchNormDNI",
        "RNNDNI",
        "Conv2dDNI",
    ),
}

__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'dni_async' has no attribute {name!r}")
