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


def rule_names(source: str) -> set[str]:
    """Return the names of rules that a source compares with, or lists.

    Comparing is `==`, `in` or `case`; a list is a tuple, list, set or dict with two of them. Default values
    of annotated fields and arguments do not count: a list there shows what is compared by default.
    """
    return set(_rule_names(ast.parse(source)))


def _rule_names(node: ast.AST) -> Iterator[str]:
    names = [name for name in _strings(node) if name in RULES]
    if isinstance(node, ast.Compare | ast.MatchValue) or (
        isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict) and len(set(names)) > 1
    ):
        yield from names
    left_out: list[ast.AST | None] = []
    if isinstance(node, ast.arguments):
        left_out = [*node.defaults, *node.kw_defaults]
    elif isinstance(node, ast.AnnAssign):
        left_out = [node.value]
    for child in ast.iter_child_nodes(node):
        if child not in left_out:
            yield from _rule_names(child)


def _strings(node: ast.AST) -> list[str]:
    """Return the strings directly in a node, and in tuples, lists and sets there."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            found.append(child.value)
        elif isinstance(child, ast.Tuple | ast.List | ast.Set):
            found += _strings(child)
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('rule == "dni"', {"dni"}),
        ('rule not in ("local", "other")', {"local"}),
        ('match rule:\n    case "oracle": ...', {"oracle"}),
        ('NAMES = ("dni", "cdni")', {"dni", "cdni"}),
        ('{"dni": 1, "local": 2}', {"dni", "local"}),
        ('ENDS = ("bptt", "dni")', set()),
        ('{"local": settings}', set()),
        ('"""dni, or cdni"""', set()),
        ('def f(rule="delayed", *, others=("dni", "cdni")): ...', set()),
        ('class C:\n    rules: tuple[str, ...] = ("dni", "cdni")', set()),
    ],
)
def test_names_that_are_compared_or_listed_are_found(source: str, found: set[str]) -> None:
    assert rule_names(source) == found


def test_only_the_registry_compares_or_lists_rule_names() -> None:
    found = {}
    for path in source_modules().values():
        if names := rule_names(path.read_text()):
            found[path.relative_to(ROOT).as_posix()] = names
    assert found == {REGISTRY: set(RULES)}


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
def test_a_wrong_path_is_refused_in_one_line(
    modules: Path, source: str | None, path: str, words: str
) -> None:
    if source is not None:
        (modules / f"{path.partition(':')[0]}.py").write_text(source)
    with pytest.raises(UserError) as caught:
        find_rule(path)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
