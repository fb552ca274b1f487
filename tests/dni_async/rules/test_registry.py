from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dni_async.errors import UserError
from dni_async.rules import CdniRule, DelayedRule, Rule
from dni_async.rules.registry import RULES, capabilities_of, find_rule, rule_label, rules_with
from tests.support.source_tree import ROOT, source_modules

REGISTRY = "dni_async/rules/registry.py"
OTHER_MEANINGS = {
    ("launch/config/recurrent.py", "dni"): "how a window of truncated BPTT ends",
    ("tasks/sequence/stateful.py", "dni"): "how a window of truncated BPTT ends",
    ("launch/planning/profile.py", "local"): "the group of settings of auxiliary heads",
    ("launch/job/checkpoints.py", "local"): "the group of settings of auxiliary heads",
}
"""Literals that equal a rule's name and mean something else."""


def literals(source: str) -> set[str]:
    """Return all strings of a source but docstrings and the defaults of annotated fields and arguments."""
    return set(_literals(ast.parse(source)))


def _literals(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    left_out: list[ast.AST | None] = []
    if isinstance(node, ast.arguments):
        left_out = [*node.defaults, *node.kw_defaults]
    elif isinstance(node, ast.AnnAssign):
        left_out = [node.value]
    elif isinstance(node, ast.Expr):
        left_out = [node.value] if isinstance(node.value, ast.Constant) else []
    for child in ast.iter_child_nodes(node):
        if child not in left_out:
            yield from _literals(child)


def test_literals_leave_out_docstrings_and_defaults() -> None:
    source = '''
"dni"
def f(rule="delayed", *, other: str = "local"):
    "cdni"
    return rule == "frozen"
class C:
    rule: str = "oracle"
    """cdni"""
    other = "dni"
'''
    assert literals(source) == {"frozen", "dni"}


def test_rule_names_are_literals_in_the_registry_only() -> None:
    found = set()
    for path in source_modules().values():
        file = path.relative_to(ROOT).as_posix()
        found |= {(file, name) for name in literals(path.read_text()) & RULES.keys()}
    assert found == {(REGISTRY, name) for name in RULES} | OTHER_MEANINGS.keys()


@pytest.mark.parametrize("name", RULES)
def test_every_name_is_a_rule_with_capabilities(name: str) -> None:
    cls = find_rule(name)
    assert issubclass(cls, Rule) and "capabilities" in vars(cls)
    assert capabilities_of(name) is cls.capabilities


def test_a_dotted_path_is_a_rule_called_by_its_class() -> None:
    assert find_rule("dni_async.rules.delayed:DelayedRule") is DelayedRule
    assert rule_label("dni_async.rules.delayed:DelayedRule") == "DelayedRule"
    assert (find_rule("cdni"), rule_label("cdni")) == (CdniRule, "cdni")


def test_rules_are_listed_by_capability() -> None:
    assert rules_with("compiles") == ("dni", "cdni", "local", "frozen")
    assert rules_with("keeps_graphs") == ("delayed",)
    assert rules_with("conditional") == ("cdni",)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize(
    ("source", "path", "words"),
    [
        (
            None,
            "sgd",
            "unknown rule (sgd); use one of dni, cdni, delayed, local, frozen, oracle, or your own as",
        ),
        (None, "absent_rules:Mine", "rule module not found (absent_rules): run where Python can import it"),
        ("", "empty_rules:Mine", "rule class not found (Mine): define it in empty_rules, or mend its name"),
        ("class Mine: ...", "plain_rules:Mine", "no rule (plain_rules:Mine): derive the class from"),
        ("Mine = 3", "number_rules:Mine", "no rule (number_rules:Mine): derive the class from"),
        (
            "from dni_async.rules import Rule\nclass Mine(Rule): ...",
            "abstract_rules:Mine",
            "rule is not complete (abstract_rules:Mine): define gradient",
        ),
        (
            "\n1 / 0",
            "broken_rules:Mine",
            "rule module cannot be imported (broken_rules): mend ZeroDivisionError: division by zero "
            "(raised at broken_rules.py:2)",
        ),
    ],
)
def test_what_is_wrong_with_a_path_is_one_line(
    modules: Path, source: str | None, path: str, words: str
) -> None:
    if source is not None:
        (modules / f"{path.partition(':')[0]}.py").write_text(source)
    with pytest.raises(UserError) as caught:
        find_rule(path)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
