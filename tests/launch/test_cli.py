"""`dni-async COMMAND` runs the command's module; failures are one line and an exit status."""

import sys

import pytest

from launch import cli, compare, plan, train
from tests.support.jobs import ROOT, run, started

COMMANDS = (
    "train",
    "compare",
    "sweep",
    "study",
    "plan",
    "advise",
    "latency",
    "windows",
    "bench",
    "generate",
    "predict",
    "evaluate",
    "export",
    "report",
    "completion",
)


@pytest.fixture
def status_of(monkeypatch):
    """The exit status of the process that `main` would have ended."""
    monkeypatch.setattr("workers.failure.rank_runner.Interruption.install_handlers", lambda self: None)
    monkeypatch.setattr("workers.failure.rank_runner.exit_process", sys.exit)

    def status_of(*arguments):
        monkeypatch.setattr(sys, "argv", ["dni-async", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code

    return status_of


def test_an_unknown_command_names_the_known_ones(status_of, capsys):
    assert status_of("trian", "--epochs", "2") == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        f"dni-async: unknown command (trian); use one of {', '.join(COMMANDS)}\n",
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_the_usage_is_shown(arguments, status_of, capsys):
    assert status_of(*arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: dni-async COMMAND [options]")
    assert ", ".join(COMMANDS) in text and text.count("\n") == 1


@pytest.mark.parametrize(("name", "module"), [("train", train), ("compare", compare), ("plan", plan)])
def test_a_command_gets_the_arguments_after_its_name(name, module, status_of, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "work", lambda runner: seen.append(list(sys.argv)))
    assert status_of(name, "--epochs", "2") == 0
    assert seen == [[f"dni-async {name}", "--epochs", "2"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_that_can_be_run(name):
    module, package = ROOT / "launch" / f"{name}.py", ROOT / "launch" / name / "__main__.py"
    source = (module if module.exists() else package).read_text()
    assert source.endswith('\n\nif __name__ == "__main__":\n    run_command(work)\n')


def test_a_bad_option_is_one_line_on_stderr_and_status_2():
    done = run("launch.train", "--epochs", "x")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("dni-async: ") and line.endswith("; see launch.train --help")
    assert "--epochs" in line and "'x'" in line


def test_help_whose_reader_has_gone_ends_silently_with_status_141():
    with started([sys.executable, "-m", "launch.export", "--help"]) as process:
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""
