"""Plug-ins return something else than their contract says: one line names the class and what it returned.

    python -m tests.campaigns.wrong_plugins

The rules, SG networks, transports and the engine are in `tests.support.wrong_plugins`; each is to train two
stages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from tests.campaigns.report import Report, known_faults
from tests.support.jobs import TINY, run
from tests.support.refusal import refusal_problem

MODULE = "tests.support.wrong_plugins"
CASE_TIMEOUT_S = 60.0
RULE, NETWORK, TRANSPORT, ENGINE = "--rule", "--sg.kind", "--transport", "--engine"
CASES: dict[str, tuple[str, str]] = {
    "GradientNone": (RULE, "GradientNone.gradient returned None"),
    "GradientNumber": (RULE, "GradientNumber.gradient returned a value of type float"),
    "GradientTuple": (RULE, "GradientTuple.gradient returned a tuple of 2"),
    "GradientOfAnotherShape": (RULE, "GradientOfAnotherShape.gradient returned a tensor (32, 64)"),
    "GradientOfFewerRows": (RULE, "GradientOfFewerRows.gradient returned a tensor (1, 32)"),
    "GradientOfWholeNumbers": (RULE, "GradientOfWholeNumbers.gradient returned a tensor (32, 64)"),
    "ForwardTuple": (RULE, "ForwardTuple.forward returned a tuple of 2"),
    "BuildNone": (RULE, "BuildNone.build returned None"),
    "ConstructorWithArguments": (RULE, "ConstructorWithArguments cannot be built"),
    "StatsList": (RULE, "StatsList.stats returned a list of 1"),
    "StatsTensor": (RULE, "StatsTensor.stats returned a tensor (1,) of torch.float32 on cpu as 'mine'"),
    "CapabilitiesDict": (RULE, "CapabilitiesDict.capabilities is a value of type dict"),
    "ResumeNumber": (RULE, "ResumeNumber.resume returned a value of type int"),
    "ResumeAnotherShape": (RULE, "ResumeAnotherShape.resume returned a tensor (1, 3)"),
    "PredictionAlone": (NETWORK, "PredictionAlone.forward returned a tensor (64, 32)"),
    "PredictionOfThree": (NETWORK, "PredictionOfThree.forward returned a tuple of 3"),
    "PredictionNone": (NETWORK, "PredictionNone gave a gradient of None"),
    "PredictionOfAnotherShape": (NETWORK, "PredictionOfAnotherShape gave a gradient of shape (64, 3)"),
    "NetworkWithoutParameters": (NETWORK, "NetworkWithoutParameters has no parameters"),
    "NetworkBuildNone": (NETWORK, "NetworkBuildNone.build returned None"),
    "SynthesizeNone": (NETWORK, "SynthesizeNone gave a gradient of None"),
    "RegressNone": (NETWORK, "RegressNone gave a gradient of None"),
    "OpenNone": (TRANSPORT, "OpenNone.open returned None"),
    "OpenNothing": (TRANSPORT, "OpenNothing.open returned a dict with the keys []"),
    "OpenText": (TRANSPORT, "OpenText.open returned a value of type str"),
    "OpenWithoutSender": (TRANSPORT, "OpenWithoutSender.open returned None as sender"),
    "WithFilenoNone": (TRANSPORT, "FilenoNone.fileno returned None"),
    "WithRecvNone": (TRANSPORT, "RecvNone.recv returned None"),
    "": (ENGINE, f"{MODULE}.run returned a list of 1"),
}
"""Class -> the option that takes it, and words that the line must have; "" is the module itself."""
SHORT = ("GradientNumber", "PredictionAlone", "WithRecvNone")
KNOWN_FAULTS = known_faults({}, CASES)
"""Cases that end otherwise, and why; a case that is mended must leave."""


def problem(name: str, option: str, words: str) -> str:
    """Train with a plug-in; return what is wrong with the end, "" when nothing is."""
    path = f"{MODULE}:{name}" if name else MODULE
    stages = () if option == ENGINE else ("--stages", "2", "--cut", "1")
    try:
        done = run("launch.train", *TINY, *stages, "--quiet", option, path, timeout=CASE_TIMEOUT_S)
    except AssertionError as error:
        return str(error)
    return refusal_problem(done) or ("" if words in done.stderr else f"{words!r} is not in {done.stderr!r}")


def campaign(cases: Mapping[str, tuple[str, str]]) -> Report:
    """Try every plug-in; a known fault that is mended is a problem, too."""
    report = Report()
    for name, (option, words) in cases.items():
        report.add(name or MODULE, problem(name, option, words), KNOWN_FAULTS.get(name, ""))
    return report


def main() -> int:
    argparse.ArgumentParser(prog="tests.campaigns.wrong_plugins").parse_args()
    return campaign(CASES).show()


if __name__ == "__main__":
    sys.exit(main())
