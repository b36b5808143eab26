"""Tensors that wait in host memory while a GPU is needed for something else."""

import torch

from asymrl.engines.offload import HostBuffers


def test_tensors_keep_their_identity_and_values_and_the_buffers_their_place() -> None:
    tensors = [torch.arange(5.0).requires_grad_(), torch.zeros(3, dtype=torch.bfloat16)]
    offloaded = HostBuffers(tensors)
    assert not offloaded.buffers  # allocated at the first use
    original = [tensor.data_ptr() for tensor in tensors]
    places = set()
    for value in range(3):
        tensors[1].data.fill_(value)
        offloaded.move_out()
        places.add(tuple(buffer.data_ptr() for buffer in offloaded.buffers))
        assert [tensor.data_ptr() for tensor in tensors] == [
            b.data_ptr() for b in offloaded.buffers
        ]
        offloaded.move_back()
        assert tensors[0].tolist() == [0, 1, 2, 3, 4] and tensors[0].requires_grad
        assert tensors[1].tolist() == [value] * 3
    assert len(places) == 1 and not set(*places) & set(original)
