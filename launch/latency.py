"""How long a message takes from one stage to the next, by transport and size.

python -m launch.latency --transports shm tcp dist
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from dni_async.errors import UserError
from launch.config.checks import at_least, one_of, positive
from launch.config.command_line import parse
from launch.report.files import prepare_out, write_results
from launch.report.grid import Column, Grid, column, show
from launch.report.text import number
from workers.failure.rank_runner import RankRunner, run_command
from workers.transport.link_benchmark import ping
from workers.transport.link_cost import Ping
from workers.transport.registry import check_transports

SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)
"""Bytes; 256 KiB are 256 x 256 floats."""


@dataclass(kw_only=True, slots=True)
class LatencyConfig:
    """Send messages between two processes of this machine and time them."""

    transports: tuple[str, ...] = ("shm", "tcp", "dist")
    """shm, tcp, dist, nccl, rpc, or the dotted path of your own."""
    trust_network: bool = False
    """Allow transport rpc, by which anybody who reaches a port of these processes can run code in them."""
    device: str = "cpu"
    """cpu or cuda: where the tensors are."""
    repeats: int = 200
    """Messages of each size; the table gives medians."""
    timeout: float = 60.0
    """Seconds that all of it may last."""
    out: str = ""
    """Folder for results; by default nothing is written."""
    quiet: bool = False
    """Show no table."""

    def __post_init__(self) -> None:
        if not self.transports:
            raise UserError("no transports given; name some, such as --transports shm dist")
        for name in self.transports:
            check_transports(name, trust_network=self.trust_network)
        at_least(1, repeats=self.repeats)
        positive(timeout=self.timeout)
        one_of("device", self.device, ("cpu", "cuda"))


def work(runner: RankRunner) -> None:
    """Measure what a message costs over each transport, show the table, and write it to --out."""
    config = parse(LatencyConfig, "launch.latency")
    found = ping(
        config.transports, device=config.device, sizes=SIZES, repeats=config.repeats, timeout=config.timeout
    )
    grid = latency_grid(found, config.transports)
    if config.out:
        out = prepare_out(config.out)
        write_results(out, "latency", {"sizes": SIZES} | asdict(found), [grid])
    if not config.quiet:
        show(grid)


def latency_grid(found: Ping, transports: tuple[str, ...]) -> Grid:
    """One row per transport: milliseconds from `send` until the receiver can read."""
    columns: list[Column] = [column("transport", transports, str, left=True)]
    for i, size in enumerate(SIZES):
        milliseconds = [1e3 * found.arrival[name][i] for name in transports]
        columns.append(column(f"{size >> 10:,} KiB\nms", milliseconds, lambda ms: number(ms, 3)))
    return Grid(title="from send until the receiver can read, median", columns=columns)


if __name__ == "__main__":
    run_command(work)
