"""Fixtures of all tests: one CPU thread, the folder of real data, and a cache folder of the test's own."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve a busy machine
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the launcher does
os.environ["DNI_REPORT"] = "no"  # half a second of every job; tests of the page switch it on

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bit-for-bit comparisons need one thread, and parallel test processes share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data: DNI_DATA, or ../shared/data beside the repository."""
    given = os.environ.get("DNI_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (root / "mnist").is_dir():
        pytest.skip(f"no real MNIST here ({root / 'mnist'}): set DNI_DATA to run this test")
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty and away from the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dni_async"
