"""What README and GUIDE show is run as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.bench import BenchConfig
from launch.config.advise import AdviseConfig
from launch.config.command_line import parse
from launch.config.compare import CompareConfig
from launch.config.plan import PlanConfig
from launch.config.recurrent import SequenceConfig
from launch.config.report import ReportConfig
from launch.config.study import StudyConfig
from launch.config.train import TrainConfig
from launch.evaluate import EvaluateConfig
from launch.export import ExportConfig
from launch.generate import GenerateConfig
from launch.predict import PredictConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = (ROOT / "README.md").read_text() + (ROOT / "docs" / "GUIDE.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", SHOWN, re.DOTALL)


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_users_own_task_trains_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(PYTHON[0])
    options = "--task my_task:Tumours --task-args width=128 --stages 2 --batch-size 32 --epochs 10"
    printed = run(tmp_path, "-m", "launch.train", *options.split())
    accuracy = re.search(r"test accuracy ([\d.]+) %, test loss", printed)
    assert accuracy is not None and float(accuracy[1]) > 90, printed


def test_the_python_example_trains_and_gives_the_model_back(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(PYTHON[1])
    printed = run(tmp_path, "example.py")
    assert float(printed.split()[0]) > 0.85 and "Sequential(" in printed


@pytest.mark.slow
def test_the_model_of_hugging_face_trains_in_two_stages(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "my_bert.py").write_text(PYTHON[2])
    options = "--task my_bert:Keywords --stages 2 --batch-size 32 --epochs 4"
    printed = run(tmp_path, "-m", "launch.train", *options.split())
    accuracy = re.search(r"test accuracy ([\d.]+) %, test loss", printed)
    assert accuracy is not None and float(accuracy[1]) > 90, printed


COMMANDS = (
    AdviseConfig,
    TrainConfig,
    CompareConfig,
    PlanConfig,
    SequenceConfig,
    ExportConfig,
    GenerateConfig,
    PredictConfig,
    EvaluateConfig,
    BenchConfig,
    ReportConfig,
    StudyConfig,
)


def options_of(config: type) -> str:
    """The help of a command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse(config, "command", ["--help"])
    return printed.getvalue()


def test_every_command_that_readme_and_guide_show_exists() -> None:
    for module in set(re.findall(r"-m (launch\.\w+)", SHOWN)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    targets = re.findall(r"^make (\w+)", SHOWN, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(f"\n{target}:" in makefile for target in targets)
    options = set(re.findall(r"--[a-z][a-z-]+(?:\.[a-z-]+)?", SHOWN))
    torchrun = {
        "--standalone",
        "--nproc-per-node",
        "--nnodes",
        "--master-addr",
        "--master-port",
        "--node-rank",
    }
    known = "".join(map(options_of, COMMANDS))
    for option in options - torchrun - {"--help"}:
        assert re.search(rf"{option}\b", known), option


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_link_to_a_heading_leads_to_one() -> None:
    missing = []
    for page in (*PAGES, ROOT / "CHANGELOG.md"):
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            if anchor not in anchors(page.parent / target if target else page):
                missing.append(f"{page.name}: {target}#{anchor}")
    assert not missing
