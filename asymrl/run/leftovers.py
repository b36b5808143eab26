"""The groups that dynamic sampling keeps for the next step, as files of a checkpoint.

`trainer/leftovers.json` has requests, texts and verdicts; `trainer/leftovers.safetensors` has what
is per token, laid end to end: ids, the engine's log-probs and entropy, and those of the policy that
generated them. A problem is stored by its id, since a run resumes with the same problems only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asymrl.config.schema import NonNegative, Positive, Rate, StrictModel
from asymrl.errors import UserError, one_line
from asymrl.files import read_json, sync_to_disk, write_atomically
from asymrl.types import Problem, Reason, Request, Rollout, RolloutGroups, Verdict

ROWS_FILE, TOKENS_FILE = "trainer/leftovers.json", "trainer/leftovers.safetensors"
FILES = (ROWS_FILE, TOKENS_FILE)


class StoredRollout(StrictModel):
    """A rollout with its verdict, without what is per token. length: number of its tokens."""

    sample: NonNegative
    length: Positive
    text: str
    truncated: bool
    reason: Reason
    answer: str | None
    seconds: Rate
    error: str | None


class StoredGroup(StrictModel):
    """problem: its id."""

    problem: str
    draw: NonNegative
    seed: NonNegative
    rollouts: list[StoredRollout]


class LeftoversJson(StrictModel):
    groups: list[StoredGroup]


def write_leftovers(folder: Path, leftovers: RolloutGroups) -> None:
    """Write both files of a checkpoint folder."""
    assert leftovers.scored is not None
    logprobs, entropy = leftovers.scored
    rollouts = leftovers.rollouts
    ids = torch.tensor([token for rollout in rollouts for token in rollout.token_ids])
    tensors = {"token_ids": ids, "logprobs": logprobs, "entropy": entropy}
    for name in ("engine_logprobs", "engine_entropy"):
        values = [value for rollout in rollouts for value in getattr(rollout, name) or ()]
        if values:  # an engine may have no entropy
            tensors[name] = torch.tensor(values, dtype=torch.float64)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TOKENS_FILE)
    sync_to_disk(folder / TOKENS_FILE)
    content = LeftoversJson(groups=[*stored_groups(leftovers)])
    write_atomically(folder / ROWS_FILE, json.dumps(content.model_dump()) + "\n")


def stored_groups(groups: RolloutGroups) -> Iterator[StoredGroup]:
    pairs = zip(groups.rollouts, groups.verdicts, strict=True)
    for request in groups.requests:
        rollouts = [
            StoredRollout(
                sample=rollout.sample,
                length=len(rollout.token_ids),
                text=rollout.text,
                truncated=rollout.truncated,
                reason=verdict.reason,
                answer=verdict.answer,
                seconds=verdict.seconds,
                error=verdict.error,
            )
            for rollout, verdict in (next(pairs) for _ in range(request.samples))
        ]
        yield StoredGroup(
            problem=request.problem.id, draw=request.draw, seed=request.seed, rollouts=rollouts
        )


def read_leftovers(folder: Path, problems: Sequence[Problem]) -> RolloutGroups:
    """The groups that write_leftovers wrote. UserError if a file is damaged."""
    by_id = {problem.id: problem for problem in problems}
    try:
        groups = LeftoversJson.model_validate(read_json(folder / ROWS_FILE)).groups
        tensors = load_file(folder / TOKENS_FILE)
        pairs = [*restored(groups, tensors)]
        return RolloutGroups(
            requests=[
                Request(
                    problem=by_id[group.problem],
                    draw=group.draw,
                    samples=len(group.rollouts),
                    seed=group.seed,
                )
                for group in groups
            ],
            rollouts=[rollout for rollout, _ in pairs],
            verdicts=[verdict for _, verdict in pairs],
            scored=(tensors["logprobs"], tensors["entropy"]),
        )
    except (OSError, KeyError, ValueError, SafetensorError) as error:  # pydantic's are ValueErrors
        names = f"{ROWS_FILE} or {TOKENS_FILE}"
        raise UserError(f"{folder} is damaged, in {names}: {one_line(error)}") from None


def restored(
    groups: Sequence[StoredGroup], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[Rollout, Verdict]]:
    """ValueError unless every tensor has one entry for each token."""
    rows = [(group.draw, rollout) for group in groups for rollout in group.rollouts]
    lengths = [rollout.length for _, rollout in rows]
    for name, tensor in tensors.items():
        if tensor.shape != (sum(lengths),):
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, not ({sum(lengths)},)")
    parts = {name: tensor.split(lengths) for name, tensor in tensors.items()}
    for row, (draw, stored) in enumerate(rows):
        values = {name: tuple(part[row].tolist()) for name, part in parts.items()}
        rollout = Rollout(
            draw=draw,
            sample=stored.sample,
            token_ids=values["token_ids"],
            text=stored.text,
            truncated=stored.truncated,
            engine_logprobs=values["engine_logprobs"],
            engine_entropy=values.get("engine_entropy"),
        )
        verdict = Verdict(
            reason=stored.reason,
            answer=stored.answer,
            seconds=stored.seconds,
            error=stored.error,
        )
        yield rollout, verdict
