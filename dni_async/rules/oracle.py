"""The check of the engine: a rule whose gradient is exact."""

from __future__ import annotations

from typing_extensions import Self, override

from dni_async.boundary import Extras
from dni_async.rules.capabilities import RuleCapabilities
from dni_async.rules.context import RuleContext
from dni_async.rules.dni import DniRule
from dni_async.synthesis.oracle import Oracle


class OracleRule(DniRule):
    """Rule `oracle`: as `dni`, with a replica of everything downstream in place of the SG network."""

    capabilities = RuleCapabilities(scales_gradients=False)

    @classmethod
    @override
    def build(cls, context: RuleContext) -> Self:
        assert context.copy_downstream is not None, "an oracle needs the layers downstream"
        downstream, updater = context.copy_downstream()
        return cls(Oracle(downstream, context.loss, updater, context.boundary))

    @override
    def take_extras(self, extras: Extras) -> None:
        assert isinstance(self.predictor, Oracle)
        self.predictor.extras = extras
