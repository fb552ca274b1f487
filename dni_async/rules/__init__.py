"""The ways a stage gets the gradient at its output."""

from dni_async.rules.base import Rule as Rule
from dni_async.rules.delayed import DelayedRule as DelayedRule
from dni_async.rules.dni import DniRule as DniRule
from dni_async.rules.frozen import FrozenRule as FrozenRule
from dni_async.rules.local import LocalRule as LocalRule
from dni_async.rules.loss import LossRule as LossRule
