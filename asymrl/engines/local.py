"""A policy that trains in one process, on one device: AdamW, fp32 weights, fp32 or bf16 forward.

With LoRA, the adapters are fp32, and the frozen weights are in the dtype of the forward pass.
Independent of rollouts, rewards and estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asymrl.config.schema import OptimConfig, PolicyConfig
from asymrl.engines import kv_cache, lora, shared_prefix
from asymrl.engines.flops import Work, work_per_token
from asymrl.engines.micro_batches import (
    MicroBatch,
    empty_loss_inputs,
    forward_micro_batch,
    loss_inputs,
    make_update_stats,
    micro_batches,
    to_flat,
    total,
)
from asymrl.engines.policy import (
    SECTIONS,
    PolicyModule,
    check_linear_head,
    check_same_parameters,
    init_adamw_state,
    make_module,
    make_reference,
    non_finite,
    read_slice,
    set_learning_rate,
)
from asymrl.types import Batch, LossFn, LossOutputs, Tokens, TrainerState, UpdateStats

CPU_TOKENS = 768
"""Most padded tokens in a micro-batch on a CPU, even if the token budget is larger. A layer's
activations then stay in the CPU's cache, and the rows of a micro-batch are closer in length."""


class LocalPolicy:
    """`model` is a causal LM, already on its device, whose trained parameters are fp32: all of
    them, or its adapters (lora.add_adapters). settings.dtype bfloat16 autocasts its forward pass.
    temperature: the sampling temperature of the rollouts. reference: a copy of the model as it is
    before training, for score_reference; a model with adapters needs none.
    total_updates: optimizer steps of the whole run, for the schedule of the learning rate."""

    def __init__(
        self,
        model: Any,
        *,
        temperature: float,
        optim: OptimConfig,
        settings: PolicyConfig,
        reference: Any = None,
        total_updates: int = 1,
    ) -> None:
        self.named_parameters = lora.named_trained(model)
        trained = list(self.named_parameters.values())
        assert all(p.dtype == torch.float32 for p in trained), "master weights are fp32"
        self.module = make_module(
            model,
            temperature,
            gradient_checkpointing=settings.gradient_checkpointing,
            fused=settings.liger_kernel,
        )
        check_linear_head(self.module)
        self.reference = None if reference is None else make_reference(reference, temperature)
        self.device: torch.device = model.device
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            weight_decay=optim.weight_decay,
            fused=True,  # one pass over weights and moments instead of ten
        )
        init_adamw_state(self.optimizer, trained)
        self.optim = optim
        self.total_updates = total_updates
        self.token_budget = settings.token_budget
        self.micro_batch_cost = settings.micro_batch_cost
        self.bf16 = settings.dtype == "bfloat16"
        self.updates = 0
        # Sharing prompts needs an attention mask, which a GPU's fastest attention does not accept,
        # and the KV cache, which transformers turns off under gradient checkpointing.
        can_cache = not settings.gradient_checkpointing and kv_cache.supports(model)
        self.shares_prompts = self.device.type == "cpu" and can_cache

    @property
    def work(self) -> Work:
        return work_per_token(self.module.model)

    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        return self._score(self.module, batch)

    def score_reference(self, tokens: Tokens) -> Tensor:
        if self.reference is not None:
            return self._score(self.reference, tokens)[0]
        with lora.adapters_off(self.module.model):
            return self._score(self.module, tokens)[0]

    @torch.no_grad()
    def _score(self, module: PolicyModule, batch: Tokens) -> tuple[Tensor, Tensor]:
        parts = [
            (micro.tokens, torch.stack([logprobs, entropy]))
            for micro, logprobs, entropy in self._forward(
                module, batch, range(len(batch.sequences))
            )
        ]
        logprobs, entropy = to_flat(parts, len(batch.targets))
        return logprobs, entropy

    def backward(self, minibatch: Batch, loss: LossFn) -> LossOutputs:
        """Write the gradient of the mini-batch's loss to the parameters' `grad`, without a step."""
        self.module.train()  # an engine that shares the model may have left it in eval mode
        self.optimizer.zero_grad()
        parts = [loss(empty_loss_inputs(minibatch, self.device))]
        rows = torch.nonzero(minibatch.has_gradient)[:, 0].tolist()
        for micro, logprobs, entropy in self._forward(self.module, minibatch, rows):
            outputs = loss(loss_inputs(minibatch, micro.tokens, logprobs, entropy))
            outputs.loss.backward()
            parts.append(replace(outputs, loss=outputs.loss.detach()))  # frees the graph
        for parameter in self.named_parameters.values():
            if parameter.grad is None:  # AdamW steps even if no row has a gradient
                parameter.grad = torch.zeros_like(parameter)
        return total(parts)

    def _forward(
        self, module: PolicyModule, batch: Tokens, rows: Sequence[int]
    ) -> Iterator[tuple[MicroBatch, Tensor, Tensor]]:
        """Micro-batches of these rows with log-probs (m,) and entropy (m,). Gradients must flow
        back from one before the next is taken; those of shared prompts follow when all are done."""
        cut = partial(
            micro_batches,
            batch,
            token_budget=self._micro_batch_tokens,
            micro_batch_cost=self.micro_batch_cost,
        )
        if not (self.shares_prompts and shared_prefix.saves_time(batch, rows)):
            for micro in cut(rows):
                with self._autocast():
                    values = forward_micro_batch(module, micro, self.device)
                yield micro, *values
            return
        for part in shared_prefix.split_rows(batch, rows, self._micro_batch_tokens):
            with self._autocast():
                prompts = shared_prefix.encode(module, batch, part)
            for micro in cut(part, responses_only=True):
                prefix = shared_prefix.prefix_inputs(prompts, batch.prompt_lengths, micro)
                with self._autocast():
                    values = forward_micro_batch(module, micro, self.device, prefix)
                yield micro, *values
            if torch.is_grad_enabled():
                shared_prefix.backward_prompts(prompts)

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        totals = self.backward(minibatch, loss)
        named_gradients = [(name, p.grad) for name, p in self.named_parameters.items()]
        grad_norm = torch.nn.utils.get_total_norm([g for _, g in named_gradients if g is not None])
        bad = None
        if not math.isfinite(totals.loss.item() + grad_norm.item()):
            bad = non_finite(totals.loss.item(), named_gradients) or "the gradient's norm"
        else:
            torch.nn.utils.clip_grads_with_norm_(
                self.named_parameters.values(), self.optim.max_grad_norm, grad_norm
            )
            self.updates += 1
            set_learning_rate(self.optimizer, self.optim, self.updates, self.total_updates)
            self.optimizer.step()
        return make_update_stats(
            minibatch,
            totals,
            grad_norm=grad_norm.item(),
            lr=self.optimizer.param_groups[0]["lr"],
            updates=self.updates,
            non_finite=bad,
        )

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        weights = lora.named_weights(self.module.model)
        return ((name, weight.merged()) for name, weight in weights.items())

    def sleep(self) -> None:
        """Frees the gradients."""
        self.optimizer.zero_grad()

    def state(self) -> TrainerState:
        sections = {
            section: {n: self._tensor(n, section).flatten().cpu() for n in self.named_parameters}
            for section in SECTIONS
        }
        return TrainerState(shapes=self._shapes, **sections, updates=self.updates)

    def load_state(self, parts: Sequence[TrainerState]) -> None:
        check_same_parameters(parts, self._shapes)
        self.updates = parts[0].updates
        for name, parameter in self.named_parameters.items():
            for section in SECTIONS:
                whole = read_slice(parts, section, name, 0, parameter.numel())
                self._tensor(name, section).copy_(whole.view(parameter.shape))
            self.optimizer.state[parameter]["step"].fill_(self.updates)

    def full_weights(self, *, merged: bool = True) -> dict[str, Tensor]:
        trained = self.named_parameters.items()
        adapters = {name: p.detach() for name, p in trained if lora.is_adapter(name)}
        weights = {**(dict(self.named_weights()) if merged else {}), **adapters}
        return {name: tensor.cpu() for name, tensor in weights.items()}

    def save_pretrained(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        lora.save_model_folder(self.module.model, folder, weights)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self.named_parameters.items()}

    def _tensor(self, name: str, section: str) -> Tensor:
        """The parameter itself or one of its moments, without gradient."""
        parameter = self.named_parameters[name].detach()
        moments = self.optimizer.state[self.named_parameters[name]]
        return parameter if section == "weights" else moments[section]

    @property
    def _micro_batch_tokens(self) -> int:
        on_cpu = self.device.type == "cpu"
        return min(self.token_budget, CPU_TOKENS) if on_cpu else self.token_budget

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
