"""Tensors that wait in host memory while a GPU is needed for something else.

Knows tensors, and nothing of what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HostBuffers:
    """Moves `tensors` between their device and buffers on the host.

    The buffers are allocated once, at the first `move_out`, and pinned if there is a GPU: pinning
    takes longer than copying. A tensor stays the same object; only its data changes place.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.devices = [tensor.device for tensor in tensors]
        self.buffers: list[Tensor] = []

    def move_out(self) -> None:
        pinned = torch.cuda.is_available()
        if not self.buffers:
            self.buffers = [
                torch.empty_like(tensor, device="cpu", pin_memory=pinned) for tensor in self.tensors
            ]
        pairs = list(zip(self.tensors, self.buffers, strict=True))
        for tensor, buffer in pairs:
            buffer.copy_(tensor.detach(), non_blocking=True)
        wait_for_copies()
        for tensor, buffer in pairs:
            tensor.data = buffer

    def move_back(self) -> None:
        for tensor, device in zip(self.tensors, self.devices, strict=True):
            tensor.data = tensor.data.to(device, non_blocking=True)
        wait_for_copies()


def wait_for_copies() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
