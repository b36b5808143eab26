"""The policy of several processes: ZeRO-3, fp32 master weights, fp32 or bf16 forward passes.

Every rank holds one slice of each parameter, and, of those that are trained, of its gradient and of
its AdamW moments, and works on its share of the rows. A layer's parameters are gathered while it
runs. Knows nothing of rollouts, rewards or estimators. Only this file imports deepspeed.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from asymrl.config.schema import OptimConfig, PolicyConfig
from asymrl.engines import lora
from asymrl.engines.distributed import World
from asymrl.engines.flops import work_per_token
from asymrl.engines.micro_batches import (
    empty_loss_inputs,
    forward_micro_batch,
    loss_inputs,
    make_update_stats,
    micro_batches,
    to_flat,
    total,
)
from asymrl.engines.offload import HostBuffers
from asymrl.engines.policy import (
    MOMENTS,
    SECTIONS,
    check_linear_head,
    check_same_parameters,
    init_adamw_state,
    make_module,
    make_reference,
    non_finite,
    read_slice,
    set_learning_rate,
)
from asymrl.types import Batch, LossFn, Tokens, TrainerState, UpdateStats

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
# DeepSpeed 0.19 calls functions that torch 2.13 has renamed; torch warns at every call
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
import deepspeed as untyped_deepspeed  # pyright: ignore  # noqa: E402
from deepspeed.runtime.zero import offload_config  # pyright: ignore  # noqa: E402

deepspeed: Any = untyped_deepspeed
# On first access, DeepSpeed probes every op: it starts compilers and looks for GPUs. If it finds
# deepspeed_shm_comm, which only tensor-parallel inference calls, it compiles that for a minute. In
# DeepSpeed 0.19.8 only comm/torch.py reads this dict, with .get(builder.NAME, False).
deepspeed.ops.__compatible_ops__ = {}
StateType: Any = offload_config.OffloadStateTypeEnum
GATHER_BUCKET = 2**28  # parameters that named_weights gathers at a time: 512 MiB in bf16


def zero3_config(optim: OptimConfig, settings: PolicyConfig, world: World) -> dict[str, Any]:
    """The complete DeepSpeed configuration: gradients are reduced and accumulated in fp32, and
    this file decides what the loss is divided by and when the optimizer steps. On several nodes,
    each node also holds all weights, so that a layer's are gathered within it (hpZ)."""
    within_node = world.local_size if world.nodes > 1 else 1
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
    return {
        "train_micro_batch_size_per_gpu": 1,  # required, but DeepSpeed only uses it in its logs
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # the optimizer steps when step() is called
        "zero_optimization": {
            "stage": 3,
            "zero_hpz_partition_size": within_node,
            **(offload if settings.offload_optimizer else {}),
        },
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, with and without offloading
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": optim.max_grad_norm,
        "steps_per_print": None,
    }


def without_optimizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """zero3_config for a model that is not trained: sharded in the same way, nothing else."""
    zero = {k: v for k, v in config["zero_optimization"].items() if k != "offload_optimizer"}
    return {**config, "zero_optimization": zero}


class DeepSpeedPolicy:
    """`load(dtype)` returns the causal LM; from_pretrained inside it loads the weights sharded.
    Its parameters that require a gradient are trained: all of them, or its adapters.

    Needs the process group of `world`. load_reference(dtype): returns a copy of the model for
    score_reference, which a model with adapters does not need; it is sharded too. temperature: the
    sampling temperature of the rollouts. total_updates: optimizer steps of the whole run, for the
    schedule of the learning rate. settings: with dtype bfloat16 the parameters are in bf16, beside
    fp32 master weights; with offload_optimizer, master weights, moments and fp32 gradients stay on
    the CPU, and AdamW runs there; with offload_during_rollouts, master weights and moments wait in
    pinned host memory while the policy sleeps. DeepSpeed's own way to move them requires its
    FusedAdam, which has to be compiled.
    """

    def __init__(
        self,
        load: Callable[[torch.dtype], Any],
        *,
        world: World,
        temperature: float,
        optim: OptimConfig,
        settings: PolicyConfig,
        load_reference: Callable[[torch.dtype], Any] | None = None,
        total_updates: int = 1,
    ) -> None:
        self.dtype: torch.dtype = getattr(torch, settings.dtype)
        config = zero3_config(optim, settings, world)
        hf_config = HfDeepSpeedConfig(config)  # from_pretrained shards while this object exists
        model = load(self.dtype)
        reference = load_reference(self.dtype) if load_reference else None
        del hf_config
        self.module = make_module(
            model,
            temperature,
            gradient_checkpointing=settings.gradient_checkpointing,
            fused=settings.liger_kernel,
        )
        # ds_shape: full shape; ds_numel: full size; ds_tensor: the slice that this rank holds
        self.named_parameters: dict[str, Any] = lora.named_trained(model)
        trained = list(self.named_parameters.values())
        if len(trained) < len(list(model.parameters())):  # DeepSpeed would allocate 5e8 entries
            config["zero_optimization"]["reduce_bucket_size"] = sum(p.numel() for p in trained)
        optimizer = torch.optim.AdamW(
            trained,
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            weight_decay=optim.weight_decay,
            fused=True,  # in place, so without temporaries of the size of the moments
        )
        engine, *_ = deepspeed.initialize(
            model=self.module, optimizer=optimizer, config=config, dist_init_required=False
        )
        self.engine: Any = engine
        self.reference: Any = None
        if reference is not None:  # without an optimizer, DeepSpeed shards and gathers alone
            self.reference, *_ = deepspeed.initialize(
                model=make_reference(reference, temperature),
                config=without_optimizer(config),
                dist_init_required=False,
            )
        self.work = work_per_token(model, world.size)
        check_linear_head(self.module)
        self.adamw: torch.optim.Optimizer = engine.optimizer.optimizer
        # this rank's slices of all parameters in fp32, concatenated: one tensor a sub-group
        self.master_weights: list[Tensor] = engine.optimizer.fp32_partitioned_groups_flat
        init_adamw_state(self.adamw, self.master_weights)
        self.world = world
        self.optim = optim
        self.total_updates = total_updates
        self.cut = partial(
            micro_batches,
            token_budget=settings.token_budget,
            micro_batch_cost=settings.micro_batch_cost,
            world=world,
        )
        self.offload_optimizer = settings.offload_optimizer
        self.host_buffers: HostBuffers | None = None
        if settings.offload_during_rollouts is True and not settings.offload_optimizer:
            states = [
                self.adamw.state[flat][key] for flat in self.master_weights for key in MOMENTS
            ]
            self.host_buffers = HostBuffers([*self.master_weights, *states])
        self.asleep = False
        self.updates = 0

    def score(self, batch: Tokens) -> tuple[Tensor, Tensor]:
        return self._score(self.engine, batch)

    def score_reference(self, tokens: Tokens) -> Tensor:
        if self.reference is not None:
            return self._score(self.reference, tokens)[0]
        with lora.adapters_off(self.module.model):
            return self._score(self.engine, tokens)[0]

    @torch.no_grad()
    def _score(self, engine: Any, batch: Tokens) -> tuple[Tensor, Tensor]:
        parts, rows = [], range(len(batch.sequences))
        for micro in self.cut(batch, rows):
            values = torch.stack(forward_micro_batch(engine, micro, self.engine.device))
            if not micro.is_dummy:
                parts.append((micro.tokens, values))
        flat = to_flat(parts, len(batch.targets))
        dist.all_reduce(flat)  # a token has its value on one rank, and 0 elsewhere
        logprobs, entropy = flat
        return logprobs, entropy

    def update(self, minibatch: Batch, loss: LossFn) -> UpdateStats:
        self._wake()
        device, optimizer = self.engine.device, self.engine.optimizer
        parts = [loss(empty_loss_inputs(minibatch, device))]
        rows = torch.nonzero(minibatch.has_gradient)[:, 0].tolist()
        for micro in self.cut(minibatch, rows):
            logprobs, entropy = forward_micro_batch(self.engine, micro, device)
            inputs = loss_inputs(minibatch, micro.tokens, logprobs, entropy)
            if micro.is_dummy:
                inputs = replace(inputs, loss_mask=torch.zeros_like(inputs.loss_mask))
            outputs = loss(inputs)
            # DeepSpeed averages gradients over ranks; the mini-batch's loss is a sum over ranks.
            self.engine.backward(outputs.loss * self.world.size, scale_wrt_gas=False)
            parts.append(replace(outputs, loss=outputs.loss.detach()))  # frees the graph
        part = total(parts)
        ranks = self.world.gather((part, non_finite(part.loss.item(), self._gradients())))
        bad = next((name for _, name in ranks if name), None)
        set_learning_rate(optimizer, self.optim, self.updates + 1, self.total_updates)
        if bad:
            optimizer._overflow_clean_up(None)  # as DeepSpeed skips an fp16 step
        else:
            self.engine.step()
            if optimizer.overflow:
                bad = "the gradient's norm"
        self.updates += not bad
        return make_update_stats(
            minibatch,
            total([part for part, _ in ranks]),
            grad_norm=math.nan if bad else float(self.engine.get_global_grad_norm()),
            lr=optimizer.param_groups[0]["lr"],
            updates=self.updates,
            non_finite=bad,
        )

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Gathers one bucket at a time. A tensor that the caller keeps outlives its bucket."""
        weights = list(lora.named_weights(self.module.model).items())
        for bucket in buckets(weights, GATHER_BUCKET):
            with deepspeed.zero.GatheredParameters([p for _, w in bucket for p in w.parameters]):
                for name, weight in bucket:
                    yield name, weight.merged()

    def sleep(self) -> None:
        """Free the gradients, which nothing reads after the optimizer's step. With
        offload_during_rollouts, moments and master weights wait in host memory."""
        if self.asleep:
            return
        states = [StateType.contiguous_grad_buffer]
        if not self.offload_optimizer:  # otherwise all else is on the CPU already
            gradients = self.engine.optimizer.grad_partitions_flat_buffer
            gradients.data = gradients.new_empty(0)  # DeepSpeed would copy them to the CPU
            states.append(StateType.lp_grads)
        if self.host_buffers:
            self.host_buffers.move_out()
        self.engine.optimizer.offload_states(include=states, pin_memory=False)
        self.asleep = True

    def state(self) -> TrainerState:
        sections = {
            section: {
                name: self._owned(parameter, section).cpu()
                for name, parameter in self.named_parameters.items()
            }
            for section in SECTIONS
        }
        return TrainerState(shapes=self._shapes, **sections, updates=self.updates)

    @torch.no_grad()
    def load_state(self, parts: Sequence[TrainerState]) -> None:
        check_same_parameters(parts, self._shapes)
        self.updates = parts[0].updates
        optimizer = self.engine.optimizer
        optimizer.checkpoint_event_prologue()  # drops the gathered parameters
        for name, parameter in self.named_parameters.items():
            start = self.world.rank * parameter.ds_tensor.numel()
            for section in SECTIONS:
                owned = self._owned(parameter, section)
                owned.copy_(read_slice(parts, section, name, start, start + owned.numel()))
        for group, flat in enumerate(self.master_weights):
            self.adamw.state[flat]["step"].fill_(self.updates)
            # from the master weights to those of the forward pass, as after an optimizer step
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()  # gathers small parameters again

    def full_weights(self, *, merged: bool = True) -> dict[str, Tensor]:
        weights = {}
        for name, tensor in chain(self._named_adapters(), self.named_weights() if merged else ()):
            if self.world.first:
                weights[name] = tensor.to("cpu", copy=True)
        return weights

    def save_pretrained(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        lora.save_model_folder(self.module.model, folder, weights)

    def _named_adapters(self) -> Iterator[tuple[str, Tensor]]:
        adapters = {n: p for n, p in self.named_parameters.items() if lora.is_adapter(n)}
        with deepspeed.zero.GatheredParameters(list(adapters.values())):
            for name, parameter in adapters.items():
                yield name, parameter.detach()

    def _gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        """This rank's slices, summed over ranks and micro-batches. With offload_optimizer they are
        not accessible; then the optimizer's step checks that their norm is finite."""
        if not self.offload_optimizer:
            for name, parameter in self.named_parameters.items():
                yield name, deepspeed.utils.safe_get_local_grad(parameter)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.ds_shape) for name, p in self.named_parameters.items()}

    def _owned(self, parameter: Any, section: str) -> Tensor:
        """A view of this rank's slice of the master weights or a moment, without the padding."""
        key = None if section == "weights" else section
        padded, _ = self.engine.optimizer._get_fp32_opt_state_partition(parameter, False, key)
        size = parameter.ds_numel - self.world.rank * padded.numel()
        return padded.detach()[: max(0, size)]

    def _wake(self) -> None:
        if not self.asleep:
            return
        if self.host_buffers:
            self.host_buffers.move_back()
        if not self.offload_optimizer:
            gradients = self.engine.optimizer.grad_partitions_flat_buffer
            size = sum(flat.numel() for flat in self.master_weights)
            gradients.data = gradients.new_zeros(size, device=self.engine.device)
        self.engine.optimizer.reload_states()
        self.asleep = False


def buckets(
    named: Sequence[tuple[str, lora.Weight]], max_size: int
) -> Iterator[list[tuple[str, lora.Weight]]]:
    """Consecutive weights of at most `max_size` entries in total; a larger one goes alone.

    Uses ds_numel, because a sharded parameter has numel() 0.
    """
    bucket: list[tuple[str, lora.Weight]] = []
    size = 0
    for name, weight in named:
        if bucket and size + weight.base.ds_numel > max_size:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, weight))
        size += weight.base.ds_numel
    yield bucket
