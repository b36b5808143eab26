"""The processes of a run: who is who, what each one takes, and what all know afterwards.

Knows torch.distributed, and nothing of models. A run of one process has the same two verbs and
needs no process group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from asymrl.errors import ReportedByRankZero, UserError, one_line
from asymrl.types import frozen

Item = TypeVar("Item")
PATIENCE = timedelta(days=2)  # what is stuck, and where, is the watch's to say: watch.py


@frozen
class World:
    """`rank` of `size` processes; each `tensor_parallel` neighbours share one rollout engine."""

    rank: int = 0
    size: int = 1
    tensor_parallel: int = 1

    @property
    def first(self) -> bool:
        """The process that writes files and speaks."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """Of the processes behind one engine, which all make the same rollouts, the first."""
        return self.rank % self.tensor_parallel == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What this process's engine generates: of n engines, it takes every n-th item."""
        return items[self.rank // self.tensor_parallel :: self.size // self.tensor_parallel]

    def gather(self, mine: Item) -> list[Item]:
        """Every rank's, in rank order, on every rank. Collective; `mine` is pickled."""
        if self.size == 1:
            return [mine]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, mine)
        return parts

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first rank does it, then the others find it done: downloads, caches, files.

        A UserError that the first one meets ends every rank, so that none waits for it.
        """
        if not self.first:
            self._agree(None)
            yield
            return
        error = None
        try:
            yield
        except UserError as met:
            error = met
        self._agree(error)

    def _agree(self, error: UserError | None) -> None:
        (met, *_) = self.gather(error)  # only the first one's can be any
        if met is not None:
            raise met if self.first else ReportedByRankZero(str(met))

    def sum(self, mine: Tensor) -> Tensor:
        """The sum of every rank's CPU tensor, on every rank. Collective."""
        if self.size > 1:
            dist.all_reduce(mine)
        return mine


def from_environment(tensor_parallel: int = 1) -> World:
    """What torchrun, accelerate launch and the like say of this process; alone without them."""
    rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
    if rank >= size:
        raise UserError(f"RANK={rank} must be below WORLD_SIZE={size}, the number of processes")
    expected = ("MASTER_ADDR", "MASTER_PORT", "RANK")
    missing = [name for name in expected if not os.environ.get(name)]
    if size > 1 and missing:
        raise UserError(
            f"WORLD_SIZE={size}, and {missing[0]} is not set, so the processes cannot find each "
            "other; start them with accelerate launch or torchrun, or unset WORLD_SIZE"
        )
    for name in ("MASTER_PORT", "LOCAL_RANK"):
        number(name, 0)
    if size % tensor_parallel:
        raise UserError(
            f"rollout.tensor_parallel = {tensor_parallel} must divide the number of processes, "
            f"which is {size}"
        )
    return World(rank=rank, size=size, tensor_parallel=tensor_parallel)


def number(name: str, default: int) -> int:
    """Of an environment variable."""
    text = os.environ.get(name) or str(default)
    if not (text.isdecimal() and text.isascii()):
        raise UserError(f"{name}={text} is no number; a launcher sets it, else unset it")
    return int(text)


def join(world: World, minutes: float = PATIENCE / timedelta(minutes=1)) -> None:
    """Take this process's GPU, if there are any, and make the process group, if there is none.

    UserError, with the ranks that are missing, where not all are here within `minutes`.

    gloo carries what lies on CPUs (rollouts, log-probs), NCCL what lies on GPUs. Of one process a
    group is made too: ZeRO-3 wants one. It lasts as long as the process: vLLM takes down its own
    groups at exit and needs this one for it.
    """
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it, of one process too
    if world.size > 1:
        store = meet(world, timedelta(minutes=minutes))
        given = {"store": store, "rank": world.rank, "world_size": world.size}
        try:
            dist.init_process_group(backend, timeout=timedelta(minutes=minutes), **given)
        except RuntimeError as error:  # gloo's is no DistError
            raise UserError(
                f"the processes met, and could not all connect to each other within {minutes:g} "
                f"minutes (deadlines.load): {one_line(error)}"
            ) from None
        dist.distributed_c10d._set_pg_timeout(PATIENCE)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=PATIENCE)


def afresh(store: Store) -> Store:
    """Where nothing is that an attempt before left there: torchrun --max-restarts keeps its store,
    and gloo would look for the processes of that attempt."""
    return PrefixStore(f"asymrl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def meet(world: World, patience: timedelta) -> Store:
    """The launcher's store, once every rank has shown itself in it."""
    keys = [f"here/{rank}" for rank in range(world.size)]
    store = None
    try:
        store = afresh(next(rendezvous("env://", timeout=patience))[0])
        store.set(keys[world.rank], "")
        store.wait(keys, patience)
        return store
    except (dist.DistError, ValueError) as error:
        minutes = f"{patience / timedelta(minutes=1):g} minutes"
        if store is None:
            where = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
            raise UserError(
                f"the processes did not meet at {where} (deadlines.load = {minutes}): "
                f"{one_line(error)}"
            ) from None
        missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        raise UserError(
            f"of {world.size} processes, rank {', '.join(missing)} did not come within {minutes} "
            "(deadlines.load)"
        ) from None
