"""Reads a vLLM model's weights back under the policy's names, to check a weight sync.

vLLM merges layers, pads vocabularies, shards tensors over ranks and packs weights for its kernels.
This module undoes that by asking the layers themselves. Knows the modules of vLLM 0.32 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IDENTITY_ROWS = 256


def hf_names(model: Any) -> list[str]:
    """The policy's names for the model's parameters: vLLM's names, with merged layers split."""
    merged = getattr(model, "packed_modules_mapping", {})
    paths = [name.split(".") for name, _ in model.named_parameters()]
    return [
        ".".join([*parents, part, kind])
        for *parents, layer, kind in paths
        for part in merged.get(layer, [layer])
    ]


def layer_classes() -> tuple[Any, Any]:
    """The Python modules that define vLLM's linear layers, and its embedding and head."""
    import vllm.model_executor.layers.linear as linear  # pyright: ignore
    import vllm.model_executor.layers.vocab_parallel_embedding as vocab  # pyright: ignore

    return linear, vocab


def repack_heads(model: Any) -> None:
    """Pack the head's weights again, on a CPU, where vLLM computes logits with a packed copy.

    A reload packs only a head that the policy sent. With tied embeddings it sends none, and vLLM
    would keep using the previous weights.
    """
    _, vocab = layer_classes()
    for module in model.modules():
        if isinstance(module, vocab.ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def named_weight(model: Any, name: str) -> Tensor:
    """The full tensor with this Hugging Face name, as the model computes with it.

    Collective over the ranks of a tensor-parallel engine. RuntimeError if the model lacks the name
    or holds different copies of the tensor.
    """
    linear, vocab = layer_classes()
    module, part = find_module(model, name)
    if isinstance(module, linear.LinearBase):
        return linear_tensor(module, part, name)
    if not isinstance(module, vocab.VocabParallelEmbedding):
        return getattr(module, name.rpartition(".")[2])
    if isinstance(module, vocab.ParallelLMHead):  # it cannot look up rows
        local = torch.cat(list(weight_columns(module)), dim=1)
    else:
        rows = torch.arange(len(module.weight), device=module.weight.device)
        local = module.quant_method.embedding(module, rows)
        heads = [head for head in model.modules() if isinstance(head, vocab.ParallelLMHead)]
        for head in heads:
            same = map(torch.equal, weight_columns(head), local.split(IDENTITY_ROWS, dim=1))
            if head.weight is module.weight and not all(same):
                raise RuntimeError(f"vLLM's embedding and head hold different values of {name}")
    return all_gather_shards(module, local, 0)[: module.org_vocab_size]


def find_module(model: Any, name: str) -> tuple[Any, int | None]:
    """The module that holds the named tensor, and the index of its layer among those that vLLM
    merged into the module (None if it merged none)."""
    *parents, layer, _ = name.split(".")
    modules = dict(model.named_modules())
    merged = getattr(model, "packed_modules_mapping", {})
    for merged_name, parts in [*merged.items(), (layer, [layer])]:
        path = ".".join([*parents, merged_name])
        if layer in parts and path in modules:
            return modules[path], parts.index(layer) if len(parts) > 1 else None
    raise RuntimeError(f"vLLM's model has no parameter named {name}")


def linear_tensor(layer: Any, part: int | None, name: str) -> Tensor:
    """The full weight or bias of a linear layer, from all ranks' shards. part: the index of a
    layer that vLLM merged into this one."""
    linear, _ = layer_classes()
    is_weight = name.endswith(".weight")
    local = torch.cat(list(weight_columns(layer)), dim=1) if is_weight else layer.bias
    if isinstance(layer, linear.RowParallelLinear):
        return all_gather_shards(layer, local, 1) if is_weight else local
    if not isinstance(layer, linear.ColumnParallelLinear):
        return local
    local = local if part is None else local.split(layer.output_partition_sizes)[part]
    full = all_gather_shards(layer, local, 0)
    replicas = getattr(layer, "num_kv_head_replicas", 1) if part else 1
    copies = full.unflatten(0, (-1, replicas, len(local)))  # ranks that share a head
    if not torch.equal(copies, copies[:, :1].expand_as(copies)):
        raise RuntimeError(f"the ranks of a vLLM engine hold different values of {name}")
    return copies[:, 0].flatten(0, 1)


def weight_columns(layer: Any) -> Iterator[Tensor]:
    """The layer's weight, (out, up to IDENTITY_ROWS) at a time: the layer applied to rows of the
    identity matrix.

    Exact, because every sum has one non-zero term. Shows the packed copy that a kernel may use,
    which `layer.weight` does not.
    """
    width, like = layer.input_size_per_partition, layer.weight
    for start in range(0, width, IDENTITY_ROWS):
        eye = like.new_zeros(min(IDENTITY_ROWS, width - start), width)
        eye[:, start:].fill_diagonal_(1)
        yield layer.quant_method.apply(layer, eye, bias=None).T


def all_gather_shards(layer: Any, shard: Tensor, dim: int) -> Tensor:
    """The shards of all ranks of a tensor-parallel engine, concatenated along `dim`."""
    if layer.tp_size == 1:
        return shard
    from vllm import distributed  # pyright: ignore

    return distributed.tensor_model_parallel_all_gather(shard.contiguous(), dim)
