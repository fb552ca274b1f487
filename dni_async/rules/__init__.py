"""The ways a stage gets the gradient at its output."""

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
