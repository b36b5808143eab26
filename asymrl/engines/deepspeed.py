"""The policy of several processes: ZeRO-3, fp32 master weights, fp32 or bf16 forward passes.

Every rank holds one slice of each parameter, of its gradient and of its AdamW moments, and works
on its share of the rows; a layer is gathered while it runs. Knows nothing of rollouts, rewards or
estimators. The only file that imports deepspeed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.cpp_extension import _get_build_directory
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from asymrl.algo.batch import plan
from asymrl.engines.distributed import World
from asymrl.engines.flops import work_of
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

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
# what DeepSpeed 0.19 calls has new names in torch 2.13, and says so at every call
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
import deepspeed as framework  # pyright: ignore  # noqa: E402
from deepspeed.runtime.zero import offload_config  # pyright: ignore  # noqa: E402

deepspeed: Any = framework
Kind: Any = offload_config.OffloadStateTypeEnum
MOMENTS = ("exp_avg", "exp_avg_sq")
BUILD_SECONDS = 600.0  # ten times what it took on two busy cores
GATHERED = 2**28  # entries of a bucket of gathered weights: 512 MiB in bf16


def build_ops() -> None:
    """What DeepSpeed compiles where there is no GPU, a minute at first and then cached.

    torch locks a build by a file that stays when its process is killed, and whoever comes next
    waits for it for ever. So one is removed that is older than any build takes, or was left by a
    build of ours that did not end: our own lock, under which nobody else looks, ends with its
    process, and what it says does not.
    """
    builder = deepspeed.accelerator.get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or torch.cuda.is_available():
        return
    folder = Path(_get_build_directory(builder.name, False))
    ours, lock = folder / ".ours", folder / "lock"
    with ours.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # the build has ended
            while True:
                killed = ours.stat().st_size > 0
                ours.touch()  # the file system's clock
                if killed or ours.stat().st_mtime - lock.stat().st_mtime > BUILD_SECONDS:
                    lock.unlink()
                time.sleep(0.1)
        print("building", file=held, flush=True)
        try:
            builder.load(verbose=False)
        finally:
            held.truncate(0)


def zero3(*, bf16: bool, max_grad_norm: float, offload_optimizer: bool) -> dict[str, Any]:
    """The whole DeepSpeed configuration. Gradients are reduced and accumulated in fp32; what a
    mini-batch is divided by, and when the optimizer steps, is ours and not DeepSpeed's to say.
    """
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
    return {
        "train_micro_batch_size_per_gpu": 1,  # asked for, and used for its own logs only
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # a step is when we call step()
        "zero_optimization": {"stage": 3, **(offload if offload_optimizer else {})},
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, offloaded or not
        "bf16": {"enabled": bf16},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": max_grad_norm,
        "steps_per_print": None,
    }


class DeepSpeedPolicy:
    """`load` gives the causal LM; models that it loads with from_pretrained come in sharded.

    Needs the process group of `world`. betas, weight_decay, max_grad_norm: AdamW and clipping by
    global norm; warmup_updates: linear from 0; token_budget: padded tokens in a rank's
    micro-batch; bf16: of parameters and forward passes, beside fp32 master weights.
    """

    def __init__(
        self,
        load: Callable[[torch.dtype], Any],
        *,
        world: World,
        temperature: float,
        lr: float,
        betas: Sequence[float],
        weight_decay: float,
        max_grad_norm: float,
        warmup_updates: int,
        token_budget: int,
        bf16: bool,
        gradient_checkpointing: bool,
        offload_optimizer: bool,
    ) -> None:
        build_ops()
        config = zero3(bf16=bf16, max_grad_norm=max_grad_norm, offload_optimizer=offload_optimizer)
        sharding = HfDeepSpeedConfig(config)  # from_pretrained sees it as long as it lives
        model = load(torch.bfloat16 if bf16 else torch.float32)
        del sharding
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        without_dropout(model)
        self.module = PolicyModule(model.train(), temperature)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay
        )
        engine, *_ = deepspeed.initialize(
            model=self.module, optimizer=optimizer, config=config, dist_init_required=False
        )
        self.engine: Any = engine
        self.work = work_of(self.module.model, world.size)
        check_head(self.module)
        self.world = world
        self.lr = lr
        self.warmup_updates = warmup_updates
        self.token_budget = token_budget
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.offload_optimizer = offload_optimizer
        self.asleep = False
        self.updates = 0
        for flat in self._master_weights:  # so that a skipped or fresh state is a full one
            self._adamw.state[flat] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }

    @torch.no_grad()
    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        parts = []
        for micro, mine in self._micro_batches(batch, range(len(batch.sequences))):
            values = torch.stack(run(self.engine, micro, self._device))
            if mine:
                parts.append((micro.tokens, values))
        values = laid_out(parts, len(batch.targets))
        logprobs, entropy = self.world.sum(values)  # each token is one rank's, and 0 elsewhere
        return logprobs, entropy

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        self._wake()
        totals = Totals()
        totals.add(loss(no_tokens(minibatch, self._device)))
        trained_rows = torch.nonzero(minibatch.has_gradient)[:, 0].tolist()
        for micro, mine in self._micro_batches(minibatch, trained_rows):
            logprobs, entropy = run(self.engine, micro, self._device)
            inputs = loss_inputs(minibatch, micro, logprobs, entropy)
            if not mine:
                inputs = replace(inputs, loss_mask=torch.zeros_like(inputs.loss_mask))
            outputs = loss(inputs)
            # DeepSpeed takes the mean over ranks; the mini-batch's loss is their sum
            self.engine.backward(outputs.loss * self.world.size, scale_wrt_gas=False)
            totals.add(outputs)
        mine = non_finite(totals.fetch(), self._gradients())
        found = self.world.gather((totals, mine))
        totals, bad = (
            Totals.merge([of_rank for of_rank, _ in found]),
            next((name for _, name in found if name), None),
        )
        lr = self.lr * min(1.0, (self.updates + 1) / max(1, self.warmup_updates))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        if bad:
            self.engine.optimizer._overflow_clean_up(None)  # as DeepSpeed drops a step of fp16
        else:
            self.engine.step()
            if self.engine.optimizer.overflow:
                bad = "the gradient's norm"
        self.updates += not bad
        skipped = minibatch.loss_mask[~minibatch.has_gradient[minibatch.row]].sum().item()
        return UpdateStats(
            metrics=totals.metrics(skipped),
            by_accuracy_bin=totals.by_accuracy_bin,
            grad_norm=math.nan if bad else float(self.engine.get_global_grad_norm()),
            lr=lr,
            updates=self.updates,
            skipped_rows=len(minibatch.sequences) - len(trained_rows),
            non_finite=bad,
        )

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Gathered a bucket at a time. A tensor that is kept outlives its bucket."""
        for bucket in buckets(list(self.module.named_hf_parameters()), GATHERED):
            with deepspeed.zero.GatheredParameters([p for _, p in bucket]):
                for name, parameter in bucket:
                    yield name, parameter.detach()

    def sleep(self) -> None:
        """AdamW's moments, master weights and gradients leave the GPU until the next update."""
        if not self.asleep:
            gone = [Kind.contiguous_grad_buffer]
            if not self.offload_optimizer:  # which has all else on the CPU for good
                self._move_optimizer("cpu")
                gone.append(Kind.lp_grads)
            self.engine.optimizer.offload_states(include=gone, pin_memory=False)
        self.asleep = True

    def state(self) -> TrainerState | None:
        whole: dict[str, dict[str, Any]] = {
            section: {name: self._gather(p, section) for name, p in self._named_parameters()}
            for section in ("weights", *MOMENTS)
        }
        return TrainerState(**whole, updates=self.updates) if self.world.first else None

    @torch.no_grad()
    def load_state(self, state: TrainerState) -> None:
        check_same_parameters(state, {n: tuple(p.ds_shape) for n, p in self._named_parameters()})
        self.updates = state.updates
        for name, parameter in self._named_parameters():
            weights = state.weights[name]
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if self.world.first:
                    parameter.copy_(weights)
            deepspeed.utils.safe_set_local_fp32_param(parameter, self._slice(parameter, weights))
            for moment in MOMENTS:
                mine = self._slice(parameter, getattr(state, moment)[name])
                deepspeed.utils.safe_set_local_optimizer_state(parameter, mine, moment)
        for flat in self._master_weights:
            self._adamw.state[flat]["step"].fill_(state.updates)

    def save_pretrained(self, folder: Path, state: TrainerState) -> None:
        save_model(self.module.model, state.weights, self.dtype, folder)

    @property
    def _device(self) -> torch.device:
        return (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        return self.engine.optimizer.optimizer

    @property
    def _master_weights(self) -> list[Tensor]:
        """This rank's slices of all parameters, laid end to end, in groups."""
        return self.engine.optimizer.fp32_partitioned_groups_flat

    def _named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Of each: ds_shape whole, ds_numel entries, ds_tensor the slice that is held here."""
        return self.module.named_hf_parameters()

    def _gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        """This rank's slices, summed over ranks and micro-batches. Offloaded ones cannot be seen
        before the optimizer's step, which refuses a norm that is not finite."""
        for name, parameter in self._named_parameters():
            if not self.offload_optimizer:
                yield name, deepspeed.utils.safe_get_local_grad(parameter)

    def _micro_batches(
        self, batch: Tokens, rows: Sequence[int]
    ) -> Iterator[tuple[MicroBatch, bool]]:
        """This rank's share of the rows in micro-batches, at least one, as many on every rank.

        False marks one that only keeps step with the other ranks: it counts for nothing.
        """
        lengths = [len(batch.sequences[row]) for row in rows]
        parts = plan(lengths, self.world.size, self.token_budget)[self.world.rank]
        shortest = min(range(len(batch.sequences)), key=lambda row: len(batch.sequences[row]))
        for part in parts or [[]]:
            mine = [rows[index] for index in part]
            yield micro_batch(batch, mine or [shortest]), bool(mine)

    def _gather(self, parameter: Any, section: str) -> Tensor | None:
        """The whole fp32 tensor on the CPU of the first rank; on the others, nothing."""
        if section == "weights":
            mine = deepspeed.utils.safe_get_local_fp32_param(parameter)
        else:
            mine = deepspeed.utils.safe_get_local_optimizer_state(parameter, section)
        mine = mine.cpu().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.world.size)]
        dist.gather(mine, parts if self.world.first else None)
        if not self.world.first:
            return None
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)

    def _slice(self, parameter: Any, whole: Tensor) -> Tensor:
        """This rank's slice; the last one is filled up with zeros."""
        size = parameter.ds_tensor.numel()
        mine = whole.flatten()[self.world.rank * size : (self.world.rank + 1) * size]
        return torch.nn.functional.pad(mine, (0, size - len(mine)))

    def _wake(self) -> None:
        if self.asleep:
            if not self.offload_optimizer:
                self._move_optimizer(self._device)
            self.engine.optimizer.reload_states()
        self.asleep = False

    def _move_optimizer(self, device: Any) -> None:
        """DeepSpeed itself moves only its own FusedAdam, which has to be compiled."""
        for flat in self._master_weights:
            flat.data = flat.data.to(device)
            for moment in MOMENTS:
                self._adamw.state[flat][moment] = self._adamw.state[flat][moment].to(device)


def buckets(named: Sequence[tuple[str, Any]], most: int) -> Iterator[list[tuple[str, Any]]]:
    """Consecutive parameters of together at most `most` entries; a larger one goes alone.

    A sharded parameter has numel() 0; ds_numel is its size.
    """
    bucket: list[tuple[str, Any]] = []
    size = 0
    for name, parameter in named:
        if bucket and size + parameter.ds_numel > most:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, parameter))
        size += parameter.ds_numel
    yield bucket
