"""The processes of a run: rank and size, sharing work, and collecting results from all ranks.

Wraps torch.distributed. Knows nothing of models. A run of one process uses the same World and
needs no process group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from asymrl.engines.gpus import count_gpus
from asymrl.errors import ReportedByRankZero, UserError, one_line
from asymrl.types import frozen

Item = TypeVar("Item")
COLLECTIVE_TIMEOUT = timedelta(days=2)  # so long because run/watchdog.py ends a hung run earlier


@frozen
class World:
    """`rank` of `size` processes on `nodes` machines, equally many on each; each `tensor_parallel`
    neighbours share one rollout engine."""

    rank: int = 0
    size: int = 1
    tensor_parallel: int = 1
    nodes: int = 1

    @property
    def local_size(self) -> int:
        """Processes on this node; those of a node have consecutive ranks."""
        return self.size // self.nodes

    @property
    def first(self) -> bool:
        """True on rank 0, the process that writes files and prints."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """True on the first process of each engine; its other processes make the same rollouts."""
        return self.rank % self.tensor_parallel == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this process's engine generates: with n engines, every n-th item."""
        return items[self.rank // self.tensor_parallel :: self.size // self.tensor_parallel]

    def gather(self, mine: Item) -> list[Item]:
        """The value of every rank, in rank order, on every rank. Collective; values are pickled."""
        if self.size == 1:
            return [mine]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, mine)
        return parts

    def from_rank_zero(self, function: Callable[[], Item]) -> Item:
        """What `function` returns on rank 0, on every rank. A UserError ends every rank.
        Collective."""
        result: Any = None
        with self.rank_zero_first():
            if self.first:
                result = function()
        return self.gather(result)[0]

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Run the block on rank 0, then on the other ranks: for downloads, caches and files.

        A UserError on rank 0 ends every rank, so that no rank waits for it. Collective.
        """
        error: UserError | None = None
        if self.first:
            try:
                yield
            except UserError as caught:
                error = caught
        (error, *_) = self.gather(error)
        if error is not None:
            raise error if self.first else ReportedByRankZero(str(error))
        if not self.first:
            yield


def from_environment(tensor_parallel: int = 1) -> World:
    """The World that torchrun or accelerate launch describe; one process without a launcher."""
    rank, size = env_int("RANK", 0), env_int("WORLD_SIZE", 1)
    if rank >= size:
        raise UserError(f"RANK={rank} must be below WORLD_SIZE={size}, the number of processes")
    expected = ("MASTER_ADDR", "MASTER_PORT", "RANK")
    missing = [name for name in expected if not os.environ.get(name)]
    if size > 1 and missing:
        raise UserError(
            f"WORLD_SIZE={size} but {missing[0]} is not set, so the processes cannot find each "
            "other; start them with accelerate launch or torchrun, or unset WORLD_SIZE"
        )
    for name in ("MASTER_PORT", "LOCAL_RANK"):
        env_int(name, 0)
    local_size = env_int("LOCAL_WORLD_SIZE", size) if size > 1 else 1
    if not local_size or size % local_size:
        raise UserError(
            f"LOCAL_WORLD_SIZE={local_size}, the number of processes on this node, must divide "
            f"WORLD_SIZE={size}: launch the same number on every node"
        )
    if size % tensor_parallel:
        raise UserError(
            f"rollout.tensor_parallel = {tensor_parallel} must divide the number of processes, "
            f"which is {size}"
        )
    if local_size % tensor_parallel:
        raise UserError(
            f"rollout.tensor_parallel = {tensor_parallel} must divide the {local_size} processes "
            "of a node, because the processes of an engine must be on one node"
        )
    return World(rank=rank, size=size, tensor_parallel=tensor_parallel, nodes=size // local_size)


def env_int(name: str, default: int) -> int:
    """A non-negative integer from the environment, `default` if it is unset or empty."""
    text = os.environ.get(name) or str(default)
    if not (text.isdecimal() and text.isascii()):
        raise UserError(
            f"{name}={text} is not a non-negative integer; a launcher sets this variable, so "
            "without a launcher unset it"
        )
    return int(text)


def join(world: World, minutes: float = COLLECTIVE_TIMEOUT / timedelta(minutes=1)) -> None:
    """Select this process's GPU, if any, and create the process group, unless one exists.

    gloo carries CPU tensors (rollouts, log-probs), NCCL carries GPU tensors. A single process gets
    a group too, because ZeRO-3 requires one. The group lives as long as the process: vLLM needs it
    at exit. UserError names the missing ranks if not all arrive within `minutes`.
    """
    gpus = count_gpus()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it even in a single process
    timeout = timedelta(minutes=minutes)
    store = HashStore() if world.size == 1 else wait_for_ranks(world, timeout)
    try:
        dist.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout
        )
    except RuntimeError as error:  # gloo raises it instead of DistError
        raise UserError(
            f"the processes found each other but could not all connect within {minutes:g} minutes "
            f"(deadlines.load): {one_line(error)}"
        ) from None
    dist.distributed_c10d._set_pg_timeout(COLLECTIVE_TIMEOUT)
    if len(sizes := set(world.gather(world.local_size))) > 1:
        raise UserError(
            f"the nodes have {', '.join(map(str, sorted(sizes)))} processes: launch the same "
            "number on every node"
        )


def store_of_attempt(store: Store) -> Store:
    """A namespace in the launcher's store for this attempt only: torchrun --max-restarts keeps its
    store, and gloo would look there for the processes of the previous attempt."""
    return PrefixStore(f"asymrl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def wait_for_ranks(world: World, timeout: timedelta) -> Store:
    """The launcher's store, after every rank has registered in it. UserError on a timeout."""
    keys = [f"here/{rank}" for rank in range(world.size)]
    store = None
    try:
        store = store_of_attempt(next(rendezvous("env://", timeout=timeout))[0])
        store.set(keys[world.rank], "")
        store.wait(keys, timeout)
        return store
    except (dist.DistError, ValueError) as error:
        minutes = f"{timeout / timedelta(minutes=1):g} minutes"
        if store is None:
            where = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
            raise UserError(
                f"the processes did not meet at {where} (deadlines.load = {minutes}): "
                f"{one_line(error)}"
            ) from None
        missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        raise UserError(
            f"rank {', '.join(missing)} of {world.size} processes did not start within {minutes} "
            "(deadlines.load)"
        ) from None
