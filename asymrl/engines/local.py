"""A policy that trains in one process, on one device: AdamW, fp32 weights, fp32 or bf16 forward.

Independent of rollouts, rewards and estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asymrl.algo.batch import plan
from asymrl.engines import kv_cache, shared_prefix
from asymrl.engines.flops import Work, work_per_token
from asymrl.engines.policy import (
    MicroBatch,
    Totals,
    check_linear_head,
    check_same_parameters,
    empty_loss_inputs,
    forward_micro_batch,
    init_adamw_state,
    loss_inputs,
    make_micro_batch,
    make_module,
    make_update_stats,
    non_finite,
    save_model,
    to_flat,
)
from asymrl.types import Batch, LossFn, Tokens, TrainerState, UpdateStats

CPU_TOKENS = 768
"""Most padded tokens in a micro-batch on a CPU, even if the token budget is larger. A layer's
activations then stay in the CPU's cache, and the rows of a micro-batch are closer in length."""


class LocalPolicy:
    """`model` is a causal LM with fp32 weights, already on its device.

    temperature: of the rollouts. betas, weight_decay: AdamW's. max_grad_norm: gradients are clipped
    to this global norm. warmup_updates: the number of updates over which the learning rate rises
    linearly from 0 to `lr`. token_budget: padded tokens in a micro-batch. bf16: autocast the
    forward pass.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float,
        lr: float,
        betas: Sequence[float],
        weight_decay: float,
        max_grad_norm: float,
        warmup_updates: int,
        token_budget: int,
        bf16: bool,
        gradient_checkpointing: bool,
    ) -> None:
        assert model.dtype == torch.float32, "master weights are fp32"
        self.module = make_module(model, temperature, gradient_checkpointing)
        check_linear_head(self.module)
        self.weights = [(n, p.detach()) for n, p in self.module.named_hf_parameters()]
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=lr,
            betas=(betas[0], betas[1]),
            weight_decay=weight_decay,
            fused=True,  # one pass over weights and moments instead of ten
        )
        init_adamw_state(self.optimizer, model.parameters())
        self.lr = lr
        self.warmup_updates = warmup_updates
        self.max_grad_norm = max_grad_norm
        self.token_budget = token_budget
        self.bf16 = bf16
        self.updates = 0
        # Sharing prompts needs an attention mask, which a GPU's fastest attention does not accept,
        # and the KV cache, which transformers turns off under gradient checkpointing.
        on_cpu = self._device.type == "cpu"
        self.shares_prompts = on_cpu and not gradient_checkpointing and kv_cache.supports(model)

    @property
    def work(self) -> Work:
        return work_per_token(self.module.model)

    @torch.no_grad()
    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        parts = []
        for micro in self._micro_batches(batch, range(len(batch.sequences))):
            with self._autocast():
                values = torch.stack(forward_micro_batch(self.module, micro, self._device))
            parts.append((micro.tokens, values))
        logprobs, entropy = to_flat(parts, len(batch.targets))
        return logprobs, entropy

    def backward(self, minibatch: Batch, loss: LossFn) -> Totals:
        """Write the gradient of the mini-batch's loss to the parameters' `grad`, without a step."""
        self.module.train()  # an engine that shares the model may have left it in eval mode
        self.optimizer.zero_grad()
        totals = Totals()
        totals.add(loss(empty_loss_inputs(minibatch, self._device)))
        rows = torch.nonzero(minibatch.has_gradient)[:, 0].tolist()
        prompts = None
        if self.shares_prompts and shared_prefix.saves_time(minibatch, rows, self.token_budget):
            with self._autocast():
                prompts = shared_prefix.encode(self.module, minibatch, rows)
        for micro in self._micro_batches(minibatch, rows, responses_only=prompts is not None):
            prefix, width = None, micro.input_ids.shape[1]
            if prompts:
                prefix = shared_prefix.prefix_inputs(
                    prompts, minibatch.prompt_lengths, micro.rows, width
                )
            with self._autocast():
                logprobs, entropy = forward_micro_batch(self.module, micro, self._device, prefix)
            outputs = loss(loss_inputs(minibatch, micro.tokens, logprobs, entropy))
            outputs.loss.backward()
            totals.add(outputs)
        if prompts:
            shared_prefix.backward_prompts(prompts)
        for parameter in self.module.parameters():  # AdamW steps even if no row has a gradient
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return totals

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        totals = self.backward(minibatch, loss)
        parameters = list(self.module.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(gradients)
        bad = None
        if not math.isfinite(totals.loss + grad_norm.item()):
            named_gradients = ((name, p.grad) for name, p in self.module.named_hf_parameters())
            bad = non_finite(totals, named_gradients) or "the gradient's norm"
        else:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, grad_norm)
            self.updates += 1
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, self.updates / max(1, self.warmup_updates))
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
        return iter(self.weights)

    def sleep(self) -> None:
        """Frees nothing: a rollout engine in the same process keeps its own memory."""

    def state(self) -> TrainerState:
        """A copy, which does not change when training continues."""
        moments = {name: self.optimizer.state[p] for name, p in self.module.named_hf_parameters()}
        return TrainerState(
            weights={name: p.cpu().clone() for name, p in self.named_weights()},
            exp_avg={name: m["exp_avg"].cpu().clone() for name, m in moments.items()},
            exp_avg_sq={name: m["exp_avg_sq"].cpu().clone() for name, m in moments.items()},
            updates=self.updates,
        )

    @torch.no_grad()
    def load_state(self, state: TrainerState) -> None:
        check_same_parameters(state, {n: tuple(p.shape) for n, p in self.named_weights()})
        self.updates = state.updates
        for name, parameter in self.module.named_hf_parameters():
            parameter.copy_(state.weights[name])
            moments = self.optimizer.state[parameter]
            moments["step"].fill_(state.updates)
            moments["exp_avg"].copy_(state.exp_avg[name])
            moments["exp_avg_sq"].copy_(state.exp_avg_sq[name])

    def save_pretrained(self, folder: Path, state: TrainerState) -> None:
        save_model(self.module.model, state.weights, torch.float32, folder)

    @property
    def _device(self) -> torch.device:
        return self.module.model.device

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16)

    def _micro_batches(
        self, batch: Tokens, rows: Sequence[int], *, responses_only: bool = False
    ) -> Iterator[MicroBatch]:
        """The rows in groups of similar length. Without rows, yields nothing."""
        lengths = [len(batch.sequences[row]) for row in rows]
        if responses_only:
            starts = batch.prompt_lengths[list(rows)] - 1
            lengths = [n - start for n, start in zip(lengths, starts.tolist(), strict=True)]
        budget = self.token_budget
        if self._device.type == "cpu":
            budget = min(budget, CPU_TOKENS)
        (parts,) = plan(lengths, 1, budget)
        for part in parts:
            micro_rows = [rows[index] for index in part]
            yield make_micro_batch(batch, micro_rows, responses_only=responses_only)
