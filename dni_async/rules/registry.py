"""All rules by name: one line each. Their capabilities are declared by their classes."""

from __future__ import annotations

from dni_async.plugins import find_class
from dni_async.rules.base import Rule
from dni_async.rules.capabilities import RuleCapabilities

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
    return find_class(name, RULES, "rule", Rule, advice=advice)  # type: ignore[type-abstract]


def capabilities_of(name: str) -> RuleCapabilities:
    """Return the capabilities of a rule, by its name or dotted path."""
    return find_rule(name).capabilities


def rules_with(capability: str) -> tuple[str, ...]:
    """Return the names of the rules that have a capability, such as "compiles"."""
    return tuple(name for name in RULES if getattr(capabilities_of(name), capability))


def rule_label(name: str) -> str:
    """Return the name of a rule in tables and files: of a dotted path, the class."""
    return name.partition(":")[2] or name
