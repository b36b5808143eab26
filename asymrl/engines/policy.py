"""The protocol of a policy, and the module and the checks that local.py and deepspeed.py share.

Handles torch modules and Hugging Face causal LMs, but no optimizer algorithm and no sharding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from asymrl.algo.logprobs import logprobs_and_entropy
from asymrl.config.schema import OptimConfig
from asymrl.engines.flops import Work
from asymrl.engines.fused_layers import use_fused_layers
from asymrl.errors import UserError
from asymrl.types import Batch, LossFn, Tokens, TrainerState, UpdateStats

MOMENTS = ("exp_avg", "exp_avg_sq")
SECTIONS = ("weights", *MOMENTS)
"""The fields of TrainerState that hold tensors."""


class Policy(Protocol):
    """The model under training, with its optimizer.

    All methods but `save_pretrained` are collective: every rank calls them, in the same order and
    with the same arguments. Batches live on the CPU and hold all rows; each rank works on a share.
    `work` is the work per token, from which the utilisation of the devices is computed.
    """

    @property
    def work(self) -> Work: ...

    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        """Log-probs (M,) and entropy (M,) of the response tokens, in nats.

        Computed without gradient at the rollout temperature; fp32, on the CPU, on every rank.
        """
        ...

    def score_reference(self, tokens: Tokens) -> Tensor:
        """Log-probs (M,) of the response tokens under the model as it was before training, for a KL
        penalty; otherwise as `score`.

        With LoRA, that is the policy without its adapters. Otherwise it is a frozen copy, which
        exists only in a policy that was built with one.
        """
        ...

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        """One optimizer step on the sum of `loss` over micro-batches and ranks.

        Rows without has_gradient get no forward pass; their tokens still count in the metrics. If
        the loss or a gradient is not finite, weights and moments stay unchanged and
        UpdateStats.non_finite names it. Wakes a sleeping policy.
        """
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, unsharded, under its Hugging Face name; a tied one once. With LoRA, the
        adapters are merged into it, one tensor at a time.

        A yielded tensor stays valid until the next update. Works while asleep.
        """
        ...

    def sleep(self) -> None:
        """Free device memory until the next update. `score` and `named_weights` still work."""
        ...

    def state(self) -> TrainerState:
        """This rank's part of the state of what is trained, without padding. Valid until the next
        update."""
        ...

    def load_state(self, parts: Sequence[TrainerState]) -> None:
        """Load the slices that this rank owns from the parts of all ranks, in rank order.

        The parts may come from another backend or number of ranks. UserError if their names or
        shapes differ from the model's.
        """
        ...

    def full_weights(self, *, merged: bool = True) -> dict[str, Tensor]:
        """On rank 0, all weights on the CPU by Hugging Face name, in the dtype of the forward pass
        (fp32 for what `local` trains), to write a model folder; empty on the other ranks.

        With LoRA, also the adapters by theirs; merged=False: only these.
        """
        ...

    def save_pretrained(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write full_weights() as a Hugging Face model folder, without the tokenizer
        (lora.save_model_folder). Not collective: rank 0 alone calls it."""
        ...


class PolicyModule(nn.Module):
    """A causal LM that maps token ids to the log-prob and entropy of chosen tokens.

    The full logits (B, T, V) never exist: the head runs on the hidden states of response tokens
    only, in chunks (algo/logprobs.py).
    """

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.head = Head(model.get_output_embeddings(), temperature)

    def forward(
        self,
        input_ids: Tensor,
        sequence: Tensor,
        position: Tensor,
        targets: Tensor,
        prefix: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """input_ids (B, T), targets (m,) -> log-probs (m,) and entropy (m,), in nats.

        sequence, position (m,): indices into (B, T) of the hidden state that predicts each target.
        prefix: keyword arguments for the backbone if input_ids continue shared prompts
        (shared_prefix.prefix_inputs).
        """
        backbone = self.model.get_decoder()
        hidden = backbone(input_ids=input_ids, **(prefix or {"use_cache": False})).last_hidden_state
        return self.head(hidden[sequence, position], targets)


class Head(nn.Module):
    """The LM head in chunks: hidden (m, D), targets (m,) -> log-probs (m,), entropy (m,)."""

    def __init__(self, linear: Any, temperature: float) -> None:
        super().__init__()
        assert getattr(linear, "bias", None) is None, "an LM head with a bias is not supported"
        self.linear = linear
        self.temperature = temperature

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        weight, device = self.linear.weight, hidden.device.type
        if torch.is_autocast_enabled(device):  # cast as autocast casts the inputs of nn.Linear
            dtype = torch.get_autocast_dtype(device)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        return logprobs_and_entropy(hidden, weight, targets, temperature=self.temperature)


def make_reference(model: Any, temperature: float) -> PolicyModule:
    """A frozen module with the model's weights."""
    return make_module(model, temperature).requires_grad_(False).eval()


def make_module(
    model: Any, temperature: float, *, gradient_checkpointing: bool = False, fused: bool = False
) -> PolicyModule:
    """The module to train, in training mode. Dropout is off, so that the probability ratio of an
    unchanged policy is 1. gradient_checkpointing: layers recompute their activations. fused: with
    the layers of fused_layers.py. UserError if the LM head has a bias, which `Head` leaves out."""
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise UserError(
            f"{model.config.model_type} models are not supported: their LM head has a bias"
        )
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if fused:
        use_fused_layers(model)
    for module in model.modules():
        for name, rate in list(vars(module).items()):
            if isinstance(rate, float) and (name == "p" or "dropout" in name):
                setattr(module, name, 0.0)
    return PolicyModule(model.train(), temperature)


@torch.no_grad()
def check_linear_head(module: PolicyModule) -> None:
    """Raise UserError if the model changes its logits after the linear head, because `Head` would
    then compute other log-probs than the model."""
    model, device = module.model, module.model.device
    ids = torch.arange(4, 12, device=device)[None] % model.config.vocab_size
    positions = torch.arange(7, device=device)
    ours, _ = module(ids[:, :-1], torch.zeros_like(positions), positions, ids[0, 1:])
    logits = model(input_ids=ids[:, :-1]).logits[0].float() / module.head.temperature
    theirs = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    tolerance = 0.1 if model.dtype == torch.bfloat16 else 1e-3  # the model rounds its logits
    if not torch.allclose(ours.float(), theirs, atol=tolerance, rtol=tolerance):
        raise UserError(
            f"{model.config.model_type} models are not supported: they change the logits after "
            "the linear head, for example by soft-capping or scaling"
        )


def init_adamw_state(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Set step and moments to 0 before the first step, so that a state is always complete.

    Like AdamW itself, it keeps the step on the parameter's device if fused, else on the CPU.
    """
    for parameter in parameters:
        device = parameter.device if optimizer.defaults.get("fused") else "cpu"
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def learning_rate(optim: OptimConfig, update: int, total_updates: int) -> float:
    """The rate of optimizer step number `update`, from 1, in a run of `total_updates`.

    In warmup, W = warmup_updates or warmup_share of all, it rises linearly: lr update / W. With
    x = (update - 1 - W) / (total_updates - W), which is 0 at the first step after warmup, it then
    is lr times the floor plus (1 - floor) times 1 (constant), 1 - x (linear) or
    (1 + cos(pi x)) / 2 (cosine).
    """
    warmup = optim.warmup_updates or round(optim.warmup_share * total_updates)
    if update <= warmup:
        return optim.lr * update / warmup
    x = min(1.0, (update - 1 - warmup) / max(1, total_updates - warmup))
    falling = {"constant": 1.0, "linear": 1 - x, "cosine": (1 + math.cos(math.pi * x)) / 2}
    return optim.lr * (optim.lr_floor + (1 - optim.lr_floor) * falling[optim.lr_schedule])


def set_learning_rate(optimizer: Any, optim: OptimConfig, update: int, total_updates: int) -> None:
    """Before optimizer step number `update`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(optim, update, total_updates)


def check_same_parameters(
    parts: Sequence[TrainerState], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise UserError unless the parts are of a model with these shapes, by parameter name."""
    theirs = parts[0].shapes
    if different := sorted(theirs.items() ^ shapes.items()):
        name = different[0][0]
        raise UserError(
            f"the checkpoint is from another model: the shape of {name} is "
            f"{theirs.get(name, 'absent')} in the checkpoint and {shapes.get(name, 'absent')} in "
            "this model"
        )


def read_slice(
    parts: Sequence[TrainerState], section: str, name: str, start: int, stop: int
) -> Tensor:
    """The entries from start to stop of a flattened parameter, (stop - start,) or fewer at its end.

    Reads only the parts that have some of them.
    """
    slices, first = [], 0
    for part in parts:
        stored = getattr(part, section)[name]
        slices.append(stored[max(0, start - first) : max(0, stop - first)])
        first += stored.numel()
    return torch.cat(slices)


def non_finite(loss: float, gradients: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Names the loss or the first gradient that contains infinities or NaN; None if all are finite.
    gradients: by parameter name, None where there is no gradient."""
    if not math.isfinite(loss):
        return f"the loss ({loss})"
    present = [(name, gradient) for name, gradient in gradients if gradient is not None]
    if not present:
        return None
    finite = torch.stack([gradient.isfinite().all() for _, gradient in present]).tolist()
    bad = [name for (name, _), is_finite in zip(present, finite, strict=True) if not is_finite]
    if not bad:
        return None
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"the gradient of {bad[0]}{others}"
