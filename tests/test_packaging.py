"""What contributors and packagers use says what the rest of the repository says."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch.loggers.registry import PACKAGES

ROOT = Path(__file__).parents[1]
FILES = (
    "CITATION.cff",
    "CONTRIBUTING.md",
    ".pre-commit-config.yaml",
    ".github/workflows/ci.yml",
    "mkdocs.yml",
)
MAKEFILE = (ROOT / "Makefile").read_text()
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_the_citation_has_the_version_and_the_licence_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == SETUP["metadata"]["version"]
    assert citation["license"] == SETUP["metadata"]["license"]


def test_the_workflow_runs_what_everybody_runs_over_the_versions_that_are_tested() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands[0] == "bash .ci/run"
    targets = [word for command in commands[1:] for word in command.split()[1:] if "=" not in word]
    assert targets == ["test-oldest", "test-newest", "dist", "docs"]
    assert all(f"\n{target}:" in MAKEFILE for target in targets)
    pythons = [
        str(version)
        for job in jobs.values()
        for step in job["steps"]
        for version in [step.get("with", {}).get("python-version", "")]
        if re.fullmatch(r"[\d.]+", str(version))
    ] + jobs["test"]["strategy"]["matrix"]["python"]
    classifiers = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert sorted(set(pythons)) == sorted(classifiers)


def test_the_hooks_run_the_commands_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        tool, *words = hook["entry"].replace(" --force-exclude", "").split()
        assert "$(BIN)/" + " ".join([Path(tool).name, *words]) in MAKEFILE, hook["id"]


def test_every_page_of_the_documentation_is_in_the_site() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    missing = [page for page in pages if f": {page}\n" not in config and not page.startswith("benchmarks/")]
    assert missing == []


def test_every_logger_with_a_package_has_an_extra() -> None:
    extras = SETUP["options.extras_require"]
    assert all(extras[name].strip().startswith(name) for name in PACKAGES)


@pytest.mark.parametrize("name", FILES)
def test_the_files_name_no_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"/work\b|/root\b|/home\b|/opt\b|index-url|pypi\.org", text)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wheel_and_source_distribution_are_built_and_pass_the_check(tmp_path: Path) -> None:
    for module in ("build", "twine"):
        pytest.importorskip(module, reason="make dist installs it")
    pytest.importorskip("setuptools", minversion="70.1", reason="builds no wheel without the package wheel")
    others = shutil.ignore_patterns(".*", "runs", "build", "dist", "site", "benchmarks", "*.egg-info")
    source, dist = shutil.copytree(ROOT, tmp_path / "source", ignore=others), tmp_path / "dist"
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    files = sorted(map(str, dist.iterdir()))
    assert [Path(file).suffix for file in files] == [".whl", ".gz"]
    check = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="make docs installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=190)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    jobs = (tmp_path / "api" / "jobs" / "index.html").read_text()
    assert "on_evaluation" in jobs and "load_run" in jobs
    assert "make demo" in (tmp_path / "index.html").read_text()
