"""Opens a page in headless Chromium, without a network."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1400,3000", "--virtual-time-budget=300"),
)


def browser() -> str:
    """The program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here ({', '.join(BROWSERS)}): install chromium to run this test")
    return found


def dumped(page: Path, *flags: str) -> str:
    """The page as HTML, when its scripts have run and have drawn every figure that is not hidden."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser(),
            *FLAGS,
            *flags,
            f"--user-data-dir={profile}",
            "--dump-dom",
            f"{page.as_uri()}#all",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout
