"""The policy of one process: AdamW on one device, fp32 weights, fp32 or bf16 forward passes.

Knows nothing of rollouts, rewards or estimators.
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
from asymrl.engines.flops import Work, work_of
from asymrl.engines.policy import (
    MicroBatch,
    PolicyModule,
    Totals,
    check_head,
    check_same_parameters,
    laid_out,
    loss_inputs,
    micro_batch,
    no_tokens,
    non_finite,
    run,
    save_model,
    without_dropout,
)
from asymrl.types import Batch, LossFn, Tokens, TrainerState, UpdateStats

CPU_TOKENS = 768
"""Padded tokens that a CPU works on at a time, however many it has memory for: what is made of
them in a layer stays in its cache, and rows of a micro-batch are more alike."""


class LocalPolicy:
    """`model` is a causal LM with fp32 weights, already on its device.

    betas, weight_decay, max_grad_norm: AdamW and clipping by global norm; warmup_updates: linear
    from 0; token_budget: padded tokens in a micro-batch; bf16: autocast of the forward pass.
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
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        without_dropout(model)
        self.module = PolicyModule(model.train(), temperature)
        check_head(self.module)
        self.weights = [(n, p.detach()) for n, p in self.module.named_hf_parameters()]
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=lr,
            betas=(betas[0], betas[1]),
            weight_decay=weight_decay,
            fused=True,  # one pass over weights and moments instead of ten
        )
        self.lr = lr
        self.warmup_updates = warmup_updates
        self.max_grad_norm = max_grad_norm
        self.token_budget = token_budget
        self.bf16 = bf16
        # not on a GPU, whose fastest attention takes no mask, nor where layers run twice
        on_cpu = self._device.type == "cpu"
        self.shares_prompts = on_cpu and not gradient_checkpointing and kv_cache.suits(model)
        self.updates = 0
        for parameter in model.parameters():  # so that a skipped or fresh state is a full one
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @property
    def work(self) -> Work:
        return work_of(self.module.model)

    @torch.no_grad()
    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        parts = []
        for micro in self._micro_batches(batch, range(len(batch.sequences))):
            with self._autocast():
                parts.append((micro.tokens, torch.stack(run(self.module, micro, self._device))))
        logprobs, entropy = laid_out(parts, len(batch.targets))
        return logprobs, entropy

    def backward(self, minibatch: Batch, loss: LossFn) -> Totals:
        """The gradient of the mini-batch's loss, into the parameters' `grad`; nothing moves."""
        self.module.train()  # an engine of the same model may have left it in eval mode
        self.optimizer.zero_grad()
        totals = Totals()
        totals.add(loss(no_tokens(minibatch, self._device)))
        trained_rows = torch.nonzero(minibatch.has_gradient)[:, 0].tolist()
        shared = None
        if self.shares_prompts and shared_prefix.worth_it(
            minibatch, trained_rows, self.token_budget
        ):
            with self._autocast():
                shared = shared_prefix.compute(self.module, minibatch, trained_rows)
        for micro in self._micro_batches(
            minibatch, trained_rows, responses_only=shared is not None
        ):
            before, width = None, micro.input_ids.shape[1]
            if shared:
                before = shared_prefix.before(shared, minibatch.prompt_lengths, micro.rows, width)
            with self._autocast():
                logprobs, entropy = run(self.module, micro, self._device, before)
            outputs = loss(loss_inputs(minibatch, micro, logprobs, entropy))
            outputs.loss.backward()
            totals.add(outputs)
        if shared:
            shared_prefix.backward(shared)
        for parameter in self.module.parameters():  # AdamW moves on even when nothing survives
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
            named = ((name, p.grad) for name, p in self.module.named_hf_parameters())
            bad = non_finite(totals, named) or "the gradient's norm"
        else:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, grad_norm)
            self.updates += 1
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, self.updates / max(1, self.warmup_updates))
            self.optimizer.step()
        skipped = minibatch.loss_mask[~minibatch.has_gradient[minibatch.row]].sum().item()
        return UpdateStats(
            metrics=totals.metrics(skipped),
            by_accuracy_bin=totals.by_accuracy_bin,
            grad_norm=grad_norm.item(),
            lr=self.optimizer.param_groups[0]["lr"],
            updates=self.updates,
            skipped_rows=int((~minibatch.has_gradient).sum()),
            non_finite=bad,
        )

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.weights)

    def sleep(self) -> None:
        """Nothing moves: an engine beside it has its own memory."""

    def state(self) -> TrainerState:
        """Copies, so that a state stays what it was while training goes on."""
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
        """The given rows in micro-batches of like length; nothing for no rows."""
        lengths = [len(batch.sequences[row]) for row in rows]
        if responses_only:
            begins = batch.prompt_lengths[list(rows)] - 1
            lengths = [n - begin for n, begin in zip(lengths, begins.tolist(), strict=True)]
        budget = self.token_budget
        if self._device.type == "cpu":
            budget = min(budget, CPU_TOKENS)
        (mine,) = plan(lengths, 1, budget)
        for part in mine:
            chosen = [rows[index] for index in part]
            yield micro_batch(batch, chosen, responses_only=responses_only)
