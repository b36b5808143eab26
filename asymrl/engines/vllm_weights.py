"""What a vLLM model computes with, under the policy's names: how a sync is checked.

vLLM merges layers, pads vocabularies, shards tensors over ranks and packs weights for its kernels;
here that is undone, by asking the layers themselves. Knows vLLM 0.32's modules and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IDENTITY_ROWS = 256


def hf_names(model: Any) -> list[str]:
    """What the policy calls the model's parameters: vLLM's names, merged layers taken apart."""
    merged = getattr(model, "packed_modules_mapping", {})
    named = [name.split(".") for name, _ in model.named_parameters()]
    return [
        ".".join([*p, part, kind]) for *p, own, kind in named for part in merged.get(own, [own])
    ]


def layer_classes() -> tuple[Any, Any]:
    """The modules of vLLM's linear layers, and of its embedding and head."""
    import vllm.model_executor.layers.linear as linear  # pyright: ignore
    import vllm.model_executor.layers.vocab_parallel_embedding as vocab  # pyright: ignore

    return linear, vocab


def repack_heads(model: Any) -> None:
    """On CPU vLLM computes logits with a packed copy of the head. A reload makes it anew only where
    the policy sent a head of its own: with tied embeddings it stays that of the weights before."""
    _, vocab = layer_classes()
    for module in model.modules():
        if isinstance(module, vocab.ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def named_weight(model: Any, name: str) -> Tensor:
    """The full tensor of a Hugging Face name, as the model computes with it. Collective over the
    ranks of a tensor-parallel engine."""
    linear, vocab = layer_classes()
    module, part = find(model, name)
    if isinstance(module, linear.LinearBase):
        return linear_part(module, part, name)
    if not isinstance(module, vocab.VocabParallelEmbedding):
        return getattr(module, name.rpartition(".")[2])
    if isinstance(module, vocab.ParallelLMHead):  # it has no lookup
        local = torch.cat(list(columns(module)), dim=1)
    else:
        rows = torch.arange(len(module.weight), device=module.weight.device)
        local = module.quant_method.embedding(module, rows)
        heads = [head for head in model.modules() if isinstance(head, vocab.ParallelLMHead)]
        for head in heads:
            same = map(torch.equal, columns(head), local.split(IDENTITY_ROWS, dim=1))
            if head.weight is module.weight and not all(same):
                raise RuntimeError(f"vLLM looks up and multiplies with another {name}")
    return gathered(module, local, 0)[: module.org_vocab_size]


def find(model: Any, name: str) -> tuple[Any, int | None]:
    """The module that holds a named tensor, and which of the layers merged into it this is, if
    vLLM merged any."""
    *parents, layer, _ = name.split(".")
    modules = dict(model.named_modules())
    merged = getattr(model, "packed_modules_mapping", {})
    for own, parts in [*merged.items(), (layer, [layer])]:
        path = ".".join([*parents, own])
        if layer in parts and path in modules:
            return modules[path], parts.index(layer) if len(parts) > 1 else None
    raise RuntimeError(f"vLLM's model has nothing by the name of {name}")


def linear_part(layer: Any, part: int | None, name: str) -> Tensor:
    """Weight or bias, all ranks' shards, of a layer or of one of those that vLLM merged into it."""
    linear, _ = layer_classes()
    is_weight = name.endswith(".weight")
    local = torch.cat(list(columns(layer)), dim=1) if is_weight else layer.bias
    if isinstance(layer, linear.RowParallelLinear):
        return gathered(layer, local, 1) if is_weight else local
    if not isinstance(layer, linear.ColumnParallelLinear):
        return local
    local = local if part is None else local.split(layer.output_partition_sizes)[part]
    full = gathered(layer, local, 0)
    replicas = getattr(layer, "num_kv_head_replicas", 1) if part else 1
    copies = full.unflatten(0, (-1, replicas, len(local)))  # neighbours share a key-value head
    if not torch.equal(copies, copies[:, :1].expand_as(copies)):
        raise RuntimeError(f"the ranks of a vLLM engine have different values of {name}")
    return copies[:, 0].flatten(0, 1)


def columns(layer: Any) -> Iterator[Tensor]:
    """A layer's weight, (out, up to IDENTITY_ROWS) at a time: what rows of the identity become in
    it. Exact, as every sum has one term that is not 0, and true of the packed copy that a kernel
    may compute with where `layer.weight` is not."""
    width, like = layer.input_size_per_partition, layer.weight
    for start in range(0, width, IDENTITY_ROWS):
        eye = like.new_zeros(min(IDENTITY_ROWS, width - start), width)
        eye[:, start:].fill_diagonal_(1)
        yield layer.quant_method.apply(layer, eye, bias=None).T


def gathered(layer: Any, shard: Tensor, dim: int) -> Tensor:
    """The shards of all ranks of a tensor-parallel engine, laid end to end."""
    if layer.tp_size == 1:
        return shard
    from vllm import distributed  # pyright: ignore

    return distributed.tensor_model_parallel_all_gather(shard.contiguous(), dim)
