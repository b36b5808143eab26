"""LoRA: trained low-rank adapters on the linear layers of a frozen model, and their merged weights.

    y = (W + (alpha / rank) B A) x        W (out, in) frozen, A (rank, in), B (out, rank)

(arXiv 2106.09685, Equation 3.) At the start B = 0, so the policy is the model. A rollout engine
receives the merged weights under the model's own names and needs no adapters. Knows the layers of
peft, which only this file imports, once adapters are added; no optimizer and no sharding: a policy
gathers the parameters that a function here reads. A model without adapters trains all weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from asymrl.config.schema import ALL_LINEAR, LoRAConfig
from asymrl.engines.model_folder import ADAPTER, ADAPTER_WEIGHTS
from asymrl.errors import UserError
from asymrl.types import derive_seed, frozen

NAME = "default"  # peft's name of the only adapter


@frozen
class Weight:
    """A weight of the model: `base`, plus scale x b @ a if its layer has adapters."""

    base: Any
    a: Any = None
    b: Any = None
    scale: float = 0.0

    @property
    def parameters(self) -> list[Any]:
        return [self.base] if self.a is None else [self.base, self.a, self.b]

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight that the policy computes with, in the dtype of `base`: summed in fp32 and
        rounded once. A new tensor if the layer has adapters, otherwise `base` itself."""
        if self.a is None:
            return self.base.detach()
        base, a, b = (tensor.detach().float() for tensor in (self.base, self.a, self.b))
        return torch.addmm(base, b, a, alpha=self.scale).to(self.base.dtype)


def target_layers(model: Any, targets: str | Sequence[str]) -> list[str]:
    """The names of the linear layers that get adapters, such as q_proj, sorted.

    UserError for a name that no linear layer of the model's blocks has. The LM head is none of
    them: the policy reads its weight without calling it (policy.Head).
    """
    modules = model.get_decoder().named_modules()
    names = sorted({path.rpartition(".")[2] for path, m in modules if type(m) is nn.Linear})
    if not names:
        raise UserError(
            f"policy.lora does not support {model.config.model_type} models: their blocks have no "
            "nn.Linear layers"
        )
    wanted = names if targets == ALL_LINEAR else sorted(set(targets))
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(
            f"policy.lora.targets: no linear layer of this model's blocks is named {unknown[0]}; "
            f"valid are {', '.join(names)}, and {ALL_LINEAR}"
        )
    return wanted


def add_adapters(
    model: Any,
    lora: LoRAConfig,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> Any:
    """Freeze the model, add adapters in place and return it. UserError as in target_layers.

    A is uniform within 1 / sqrt(in), as in peft, but depends on the seed and the layer's name only,
    so it is equal on every rank, backend and device. revision: of the model, for adapter_config.
    """
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # peft only divides it
        lora_dropout=0.0,
        bias="none",
        target_modules=target_layers(model, lora.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
        revision=revision,
    )
    inject_adapter_in_model(settings, model, NAME)
    for name, parameter in named_trained(model).items():
        parameter.data = parameter.data.to(dtype)
        if name.endswith(".lora_A.weight"):
            generator = torch.Generator().manual_seed(derive_seed("lora", seed, name))
            uniform = torch.rand(parameter.shape, generator=generator)
            parameter.data.copy_((2 * uniform - 1) / parameter.shape[1] ** 0.5)
    return model


def named_trained(model: Any) -> dict[str, Any]:
    """The trained parameters by name; adapters as model.layers.0.mlp.up_proj.lora_A.weight."""
    named = model.named_parameters()
    return {name.replace(f".{NAME}.", "."): p for name, p in named if p.requires_grad}


def is_adapter(name: str) -> bool:
    """Whether a name of named_trained is an adapter's."""
    return name.endswith((".lora_A.weight", ".lora_B.weight"))


def named_weights(model: Any) -> dict[str, Weight]:
    """Every weight of the model by its Hugging Face name, a tied one once, in the model's order."""
    layers = dict(adapted_layers(model))
    weights = {}
    for name, parameter in model.named_parameters():
        path, _, kind = name.rpartition(".base_layer.")
        if path and kind == "weight":
            layer = layers[path]
            a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
            weights[f"{path}.weight"] = Weight(base=parameter, a=a, b=b, scale=layer.scaling[NAME])
        elif f".{NAME}." not in name:
            weights[name.replace(".base_layer.", ".")] = Weight(base=parameter)
    return weights


def adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers with adapters, by their path."""
    return ((path, module) for path, module in model.named_modules() if hasattr(module, "lora_A"))


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Inside, the model computes with its frozen weights alone.

    Scales the adapters by 0 instead of skipping them: under ZeRO-3 the same modules run in the same
    order, and nothing is marked as frozen that trains.
    """
    layers = [layer for _, layer in adapted_layers(model)]
    scales = [layer.scaling[NAME] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[NAME] = 0.0
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[NAME] = scale


def save_model_folder(model: Any, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights by name as a Hugging Face folder, the adapters among them as peft's folder
    `adapter` inside it. With nothing but adapters, the folder has the model's configs alone."""
    adapters = {name: tensor for name, tensor in weights.items() if is_adapter(name)}
    rest = {name: tensor for name, tensor in weights.items() if name not in adapters}
    if rest:
        model.save_pretrained(folder, state_dict=rest)
    else:
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
    if adapters:
        (folder / ADAPTER).mkdir()
        model.peft_config[NAME].save_pretrained(folder / ADAPTER)
        named = {f"base_model.model.{name}": tensor for name, tensor in adapters.items()}
        save_file(named, folder / ADAPTER / ADAPTER_WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def merge_saved(model: Any, folder: Path) -> Any:
    """The model with the adapters that peft or save_model_folder wrote to `folder` merged into its
    weights, each rounded once. ValueError or another of peft's errors if they do not fit."""
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, str(folder))
    for weight in named_weights(adapted.get_base_model()).values():
        if weight.a is not None:
            weight.base.copy_(weight.merged())
    tuner: Any = adapted.base_model
    return tuner.unload().requires_grad_(True)  # peft froze it
