"""All rules by name: one line each. Their capabilities are declared by their classes."""

from __future__ import annotations

from dni_async.contract import describe_value, wrong_value
from dni_async.errors import UserError
from dni_async.plugins import find_class
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.context import RuleContext

RULES = {
    "dni": "dni_async.rules.dni:DniRule",
    "cdni": "dni_async.rules.dni:CdniRule",
    "delayed": "dni_async.rules.delayed:DelayedRule",
    "local": "dni_async.rules.local:LocalRule",
    "frozen": "dni_async.rules.frozen:FrozenRule",
    "oracle": "dni_async.rules.oracle:OracleRule",
}
"""Name on the command line -> class."""


def find_rule(name: str) -> type[Rule]:
    """Return the class of a rule, by its name or dotted path. Raises UserError if there is none."""
    advice = f"; use one of {', '.join(RULES)}, or your own as my_pkg.my_rule:MyRule"
    found = find_class(name, RULES, "rule", Rule, advice=advice)  # type: ignore[type-abstract]
    if not isinstance(found.capabilities, RuleCapabilities):
        what = describe_value(found.capabilities)
        raise UserError(f"{found.__name__}.capabilities is {what}; it must be RuleCapabilities(...)")
    return found


def build_rule(name: str, context: RuleContext) -> Rule:
    """Return a rule, by its name or dotted path, for the interface that `context` describes.

    Raises UserError if it cannot be built, or its `build` returns something else.
    """
    found = find_rule(name)
    try:
        rule: object = found.build(context)
    except TypeError as error:
        if getattr(found.build, "__func__", None) is not getattr(Rule.build, "__func__", None):
            raise
        advice = "define build(context), or a constructor without arguments"
        raise UserError(f"rule {name} cannot be built ({error}); {advice}") from error
    if not isinstance(rule, Rule):
        raise wrong_value(found, "build", rule, f"a {found.__name__}")
    return rule


def capabilities_of(name: str) -> RuleCapabilities:
    """Return the capabilities of a rule, by its name or dotted path."""
    return find_rule(name).capabilities


def rules_with(capability: str) -> tuple[str, ...]:
    """Return the names of the rules that have a capability, such as "compiles"."""
    return tuple(name for name in RULES if getattr(capabilities_of(name), capability))


def rule_label(name: str) -> str:
    """Return the name of a rule in tables and files: of a dotted path, the class."""
    return name.partition(":")[2] or name
