"""Rules, SG networks, transports and an engine that return something else than their contract says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dni_async import DNINetwork
from dni_async.rules import Rule, RuleCapabilities
from workers.transport.base import Receiver
from workers.transport.shm_link import ShmTransport


class ZeroRule(Rule):
    capabilities = RuleCapabilities(needs_targets=False)

    def gradient(self, step, version, h, y):
        return torch.zeros_like(h)


class GradientNone(ZeroRule):
    def gradient(self, step, version, h, y):
        return None


class GradientNumber(ZeroRule):
    def gradient(self, step, version, h, y):
        return 0.5


class GradientTuple(ZeroRule):
    def gradient(self, step, version, h, y):
        return torch.zeros_like(h), None


class GradientOfAnotherShape(ZeroRule):
    def gradient(self, step, version, h, y):
        return torch.zeros_like(h.t())


class GradientOfFewerRows(ZeroRule):
    def gradient(self, step, version, h, y):
        return torch.zeros_like(h[:1])


class GradientOfWholeNumbers(ZeroRule):
    def gradient(self, step, version, h, y):
        return torch.zeros_like(h.t(), dtype=torch.long)


class ForwardTuple(ZeroRule):
    def forward(self, layers, x):
        return layers(x), None


class BuildNone(ZeroRule):
    @classmethod
    def build(cls, context):
        return None


class ConstructorWithArguments(ZeroRule):
    def __init__(self, shape):
        self.shape = shape


class StatsList(ZeroRule):
    def stats(self):
        return [1]


class StatsTensor(ZeroRule):
    def stats(self):
        return {"mine": torch.ones(1)}


class CapabilitiesDict(ZeroRule):
    capabilities = {"compiles": True}  # type: ignore[assignment]  # noqa: RUF012


class ResumeNumber(Rule):
    capabilities = RuleCapabilities(keeps_graphs=True)

    def gradient(self, step, version, h, y):
        return None

    def postpone(self, step, version, x, h):
        pass

    def resume(self, target, version):
        return 3


class ResumeAnotherShape(ResumeNumber):
    def resume(self, target, version):
        x = torch.zeros(1, 3, requires_grad=True)
        return x, x * 2


class LinearSG(DNINetwork):
    def __init__(self, input_size, hidden_size, output_size, label_size=0):
        super().__init__(input_size, hidden_size, output_size)
        self.output = nn.Linear(input_size, output_size)

    def forward(self, input, hidden=None, labels=None):
        return self.output(input), None


class PredictionAlone(LinearSG):
    def forward(self, input, hidden=None, labels=None):
        return self.output(input)  # type: ignore[return-value]


class PredictionOfThree(LinearSG):
    def forward(self, input, hidden=None, labels=None):
        return self.output(input), None, None  # type: ignore[return-value]


class PredictionNone(LinearSG):
    def forward(self, input, hidden=None, labels=None):
        return None, None  # type: ignore[return-value]


class PredictionOfAnotherShape(LinearSG):
    def forward(self, input, hidden=None, labels=None):
        return self.output(input)[:, :3], None


class NetworkWithoutParameters(LinearSG):
    def __init__(self, input_size, hidden_size, output_size, label_size=0):
        super().__init__(input_size, hidden_size, output_size)
        del self.output


class NetworkBuildNone(LinearSG):
    @classmethod
    def build(cls, shape, label_size, settings):
        return None


class SynthesizeNone(LinearSG):
    def synthesize(self, h, labels):
        return None


class RegressNone(LinearSG):
    def regress(self, h, labels, target):
        super().regress(h, labels, target)


class OpenNone(ShmTransport):
    def open(self, request):
        super().open(request)


class OpenNothing(ShmTransport):
    def open(self, request):
        super().open(request)
        return {}


class OpenText(ShmTransport):
    def open(self, request):
        return dict.fromkeys(super().open(request), "link")


class OpenWithoutSender(ShmTransport):
    def open(self, request):
        opened = super().open(request)
        for link in opened.values():
            link.sender = None
        return opened


@dataclass
class Delegating(Receiver):
    """Does what another receiver does."""

    end: Receiver

    def __post_init__(self) -> None:
        self.peer = self.end.peer

    def fileno(self) -> Any:
        return self.end.fileno()

    def peer_gone(self):
        return self.end.peer_gone()

    def close(self):
        self.end.close()

    def poll(self):
        return self.end.poll()

    def recv(self, timeout) -> Any:
        return self.end.recv(timeout)

    def release(self):
        self.end.release()


class FilenoNone(Delegating):
    def fileno(self) -> Any:
        return None


class RecvNone(Delegating):
    def recv(self, timeout) -> Any:
        self.end.recv(timeout)


class _Wrapped(ShmTransport):
    kind: type[Delegating]

    def open(self, request):
        opened = super().open(request)
        for link in opened.values():
            link.receiver = self.kind(link.receiver)
        return opened


class WithFilenoNone(_Wrapped):
    kind = FilenoNone


class WithRecvNone(_Wrapped):
    kind = RecvNone


def run(context, recorder):
    """As the module of an engine that returns no layers."""
    return [1]
