"""Rules: how a stage gets the gradient at its output.

base ◄─ dni, delayed, local, frozen, oracle; loss (of the last stage)
registry    rules by name or dotted path        capabilities   what a rule can do
context     what a rule is built from           staleness      updates between prediction and target
stash       batches that wait under rule delayed
"""

from dni_async.rules.base import Rule as Rule
from dni_async.rules.capabilities import RuleCapabilities as RuleCapabilities
from dni_async.rules.context import RuleContext as RuleContext
from dni_async.rules.delayed import DelayedRule as DelayedRule
from dni_async.rules.dni import CdniRule as CdniRule
from dni_async.rules.dni import DniRule as DniRule
from dni_async.rules.frozen import FrozenRule as FrozenRule
from dni_async.rules.local import LocalRule as LocalRule
from dni_async.rules.loss import LossRule as LossRule
from dni_async.rules.oracle import OracleRule as OracleRule
