"""Messages of any size, for tests of the shared-memory transport."""

from __future__ import annotations

import torch

from dni_async.messages import TargetGradient
from workers.transport.shm_receiver import ShmReceiver
from workers.transport.shm_sender import ShmSender

ShmPair = tuple[ShmSender, ShmReceiver]


def gradient(elements: int) -> TargetGradient:
    return TargetGradient(elements, 0, torch.arange(elements, dtype=torch.float32))
