"""Every option of every command gets bad values: each must be refused by one line and exit status 2.

python -m tests.campaigns.bad_options                    all values
python -m tests.campaigns.bad_options --command train    those of one command
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.campaigns.report import Report, known_faults
from tests.support.jobs import run
from tests.support.refusal import refusal_problem

CASE_TIMEOUT_S = 60.0
CUT = ("--sg.rank", "--sg.negatives", "--sg.match")
"""Options whose values are checked at a cut."""
TRAIN = ("--task", "digits-fcn", "--task-args", "depth=3", "width=32", "--epochs", "1", "--quiet")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": TRAIN,
    "compare": (*TRAIN, "--engines", "backprop", "--stages", "1"),
    "plan": (*TRAIN, "--stages", "1"),
    "advise": (*TRAIN, "--engines", "ddp", "--repeats", "1", "--updates", "2"),
    "study": (*TRAIN, "--repeats", "1"),
    "windows": ("--task", "copy", "--epochs", "1", "--quiet"),
    "generate": (),
    "predict": ("--run", "/nothing", "--input", "x.npy"),
    "evaluate": ("--run", "/nothing"),
    "export": (),
    "bench": (),
    "report": (),
    "latency": ("--quiet",),
}
"""Every command with good options; those of a case come after them and override them."""

VALUES: dict[str, dict[str, str]] = {
    "train": {
        "--epochs": "x 0 -1 1.5 1e3",
        "--until": "x 0 -0.1 1.5 nan inf",
        "--evaluations": "x 0 -1",
        "--patience": "x -1",
        "--batch-size": "x 0 -1 1.5 1000000000000000000000000000000",
        "--seed": "x -1 4294967296",
        "--loader-workers": "x -1 1.5",
        "--prefetch": "x 0 -1",
        "--steps-per-epoch": "x -1 1.5",
        "--stages": "x -1",
        "--cut": "x 0 -1 2,2 3,1 1,,2 1.5 99",
        "--optimizer": "nothing lbfgs Optimizer sparseadam",
        "--lr": "x 0 -1 nan inf",
        "--optimizer-args": "momentum =1 nothing=1 params=1 betas=2 weight_decay=-1 lr=3",
        "--param-groups": "nothing =1 :lr=1 *.bias *.bias: *.bias:nothing=1 *.bias:lr=x *.nothing:lr=1",
        "--schedule": "nothing",
        "--warmup": "x -0.1 1.5 nan inf",
        "--accumulate": "x 0 -1 1.5",
        "--ema": "x -0.1 1 nan",
        "--milestones": "x 0 1 -0.5 nan",
        "--clip-norm": "x 0 -1 nan inf",
        "--micro-batches": "x -1",
        "--in-flight": "x 0 -1 129",
        "--target-every": "x 0 -1",
        "--stash": "x 0 -1",
        "--delay-rate": "x -1 2.1 nan inf",
        "--delay-beta1": "x -0.1 1 nan",
        "--delay-correction": "nothing",
        "--transport": "nothing auto,nothing shm,shm",
        "--device": "nothing cuda:x",
        "--threads": "x -1",
        "--wire": "nothing fp16",
        "--precision": "nothing fp8",
        "--emulate-gflops": "x 0 -1 nan inf",
        "--timeout": "x 0 -1 nan inf 1e10 1e300 1e-9",
        "--port": "x -1 65536",
        "--out": "/dev/null /dev/null/run /proc/run <5000>",
        "--log": "nothing csv nothing:Nothing",
        "--profile": "x 5 5:5 7:3 1:2",
        "--config": "/nothing /dev/null README.md",
        "--rule": "nothing CDNI",
        "--engine": "nothing cdni",
        "--minutes": "x 0 -1 nan inf",
        "--on-nonfinite": "nothing",
        "--checkpoint-every": "x -1 5",
        "--supervise": "yes",
        "--stage-restarts": "x -1",
        "--max-restarts": "x -1 1",
        "--resume": "<nothing>",
        "--init": "/nothing.safetensors /dev/null nothing",
        "--task": "<empty> nothing os:path nothing.at.all:Task tests.support.tiny_task:nothing nothing:",
        "--task-args": "nothing depth=x depth=0 depth=-1 width=0 colour=red =",
        "--sg.kind": "nothing",
        "--sg.rank": "x -1 33",
        "--sg.negatives": "x -1 10",
        "--sg.match": "x -0.1 1.1 nan 0",
        "--sg.hidden": "x 0",
        "--sg.layers": "x 0",
        "--sg.memory": "x 0",
        "--sg.optimizer": "nothing",
        "--sg.lr": "x 0 -1 nan inf",
        "--sg.replay": "x -1",
        "--sg.replay-window": "x 0",
        "--sg.units": "nothing",
        "--local.hidden": "x 0",
        "--local.optimizer": "nothing",
        "--local.lr": "x 0 nan inf",
        "--nothing": "1",
        "--epoch": "2",
    },
    "compare": {
        "--engines": "<nothing> nothing decoupled",
        "--variants": "nothing lr=1 cdni cdni cdni=1",
        "--repeats": "x 0 -1",
        "--patience": "-1",
        "--batch-size": "0",
        "--rule": "cdni",
        "--wan": "x 25 25,0 -1,5 nan,1 25,inf 25,1000,3",
    },
    "study": {
        "--rules": "<nothing> nothing x:",
        "--vary": "x stages= seed=1/2 stages=0/2",
        "--repeats": "x 0 -1",
    },
    "plan": {
        "--wan": "x 25 25,0 -1,5 nan,1 25,inf 25,1000,3",
        "--engines": "<nothing> nothing",
        "--stage-counts": "x 0 -1 99",
        "--repeat-layers": "x -1",
        "--profile": "/dev/null /nothing.json",
    },
    "advise": {
        "--engines": "<nothing> nothing copies",
        "--devices": "x 0 1 -1 1.5 1025",
        "--link": "nothing <empty> wan wan: wan:50ms wan:50,100 wan:-1ms,1mbit wan:1ms,0mbit wan:100s,1mbit",
        "--updates": "x -1 1.5",
        "--repeats": "x 0 -1",
        "--variants": "cdni",
        "--wan": "50ms,100mbit",
        "--stages": "x -1 1",
        "--transport": "shm,tcp nothing",
        "--task": "copy char-lm-stack nothing",
    },
    "windows": {
        "--rules": "<nothing> nothing",
        "--windows": "<nothing> x 0 -1",
        "--repeats": "x 0 -1",
        "--bptt": "x 0 -1",
        "--state-bound": "x 0 -1 nan",
        "--discount": "x -1 2 nan",
        "--task": "digits-fcn nothing",
        "--task-args": "length=0 width=0 nothing=1",
    },
    "generate": {
        "--run": "/nothing /dev/null <empty>",
        "--length": "x 0 -1",
        "--temperature": "x -1 nan inf",
        "--seed": "x",
    },
    "predict": {
        "--run": "/nothing /dev/null <empty>",
        "--input": "x.txt /nothing.npy <empty>",
        "--to": "x.txt",
    },
    "evaluate": {"--run": "/nothing /dev/null <empty>", "--split": "dev"},
    "export": {"--run": "/nothing /dev/null <empty>", "--to": "model.bin", "--step": "x -1"},
    "bench": {"--only": "nothing"},
    "report": {},
    "latency": {"--transports": "<nothing> nothing", "--repeats": "x 0 -1", "--timeout": "x 0 -1 nan"},
}
"""By command and option: bad values. <nothing>: the option alone, <empty>: "", <5000>: 5,000 characters."""
FREE = ("--help", "--data-root", "--prompt", "--docs")
"""Options without a bad value: any text or any folder will do."""


@dataclass(frozen=True, slots=True)
class Case:
    """One bad value of one option."""

    command: str
    option: str
    value: str

    def __str__(self) -> str:
        return f"{self.command} {self.option} {self.value}"

    @property
    def known_fault(self) -> str:
        """Why it is not refused yet; "" if it should be."""
        return KNOWN_FAULTS.get(str(self), "")

    def arguments(self) -> list[str]:
        values = {"<nothing>": [], "<empty>": [""], "<5000>": ["x" * 5000]}.get(self.value, [self.value])
        stages = ["--stages", "2"] if self.option in CUT else []
        return [*COMMANDS[self.command], *stages, self.option, *values]

    def problem(self) -> str:
        """Run the command; return what is wrong with the refusal, "" when nothing is."""
        try:
            done = run(f"launch.{self.command}", *self.arguments(), timeout=CASE_TIMEOUT_S)
        except AssertionError as error:
            return str(error)
        return refusal_problem(done)


def cases() -> Iterator[Case]:
    """Yield every case."""
    for command, options in VALUES.items():
        for option, values in options.items():
            for value in values.split():
                yield Case(command, option, value)


def without_bad_values(command: str) -> list[str]:
    """Return the options in the help of a command that no case tries; options without a value aside."""
    text = run(f"launch.{command}", "--help", COLUMNS="200").stdout
    shown = set(re.findall(r"(?<![\w-])--[a-z](?:[\w.-]*\w)?", text))
    negative = {option for option in shown if re.match(r"--(\w+\.)?no-", option)}
    flags = negative | {option.replace("no-", "", 1) for option in negative}
    return sorted(shown - flags - {*VALUES[command], *VALUES["train"], *FREE})


KNOWN_FAULTS = known_faults({}, [str(case) for case in cases()])
"""Cases that are not refused yet, and why; a case that is mended must leave."""


def short() -> list[Case]:
    """Return the first and the last value of every option, and every known fault."""
    every = list(cases())
    ends = {}
    for case in every:
        ends.setdefault((case.command, case.option), [case, case])[1] = case
    return [case for case in every if case in ends[case.command, case.option] or case.known_fault]


def campaign(chosen: list[Case]) -> Report:
    """Run the cases; a known fault that is mended is a problem, too."""
    report = Report()
    for case in chosen:
        report.add(str(case), case.problem(), case.known_fault)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaigns.bad_options")
    parser.add_argument("--command", choices=tuple(VALUES))
    asked = parser.parse_args()
    return campaign([case for case in cases() if asked.command in (None, case.command)]).show()


if __name__ == "__main__":
    sys.exit(main())
