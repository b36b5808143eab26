"""Rollouts and advantages -> mini-batches of flat tokens, and rows -> ranks and micro-batches.

Pure functions over the values of types.py. Knows nothing of models, devices or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asymrl.algo.diagnostics import accuracy_bins
from asymrl.types import Batch, Groups, Request, Rollout, Scored, Tokens


def tokenise(requests: Sequence[Request], rollouts: Sequence[Rollout]) -> Tokens:
    """Lay the responses of sorted rollouts end to end; `requests[n]` is group n."""
    group_of = {request.draw: n for n, request in enumerate(requests)}
    group = torch.tensor([group_of[rollout.draw] for rollout in rollouts])
    prompts = [requests[n].problem.prompt_ids for n in group.tolist()]
    lengths = torch.tensor([len(rollout.token_ids) for rollout in rollouts])
    return Tokens(
        sequences=[p + r.token_ids for p, r in zip(prompts, rollouts, strict=True)],
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
        group=group,
        row=torch.repeat_interleave(torch.arange(len(rollouts)), lengths),
        targets=torch.tensor([token for rollout in rollouts for token in rollout.token_ids]),
    )


def engine_logprobs(rollouts: Sequence[Rollout]) -> Tensor:
    """(M,), as the engine had them when it sampled."""
    return torch.tensor([value for rollout in rollouts for value in rollout.engine_logprobs])


def engine_values(rollouts: Sequence[Rollout]) -> Scored:
    """The engine's own logprobs (M,) and entropy (M,), for engines that declare them exact."""
    entropy = [value for rollout in rollouts for value in rollout.engine_entropy or ()]
    return engine_logprobs(rollouts), torch.tensor(entropy)


def make_groups(tokens: Tokens, scored: Scored, rewards: Tensor, valid: Tensor) -> Groups:
    """What an estimator sees. rewards, valid (R,) in the rows' order: G consecutive rows a group.

    Rewards are fp64: an advantage is a power of a ratio of small integers.
    """
    logprobs, _ = scored
    num_groups = int(tokens.group[-1]) + 1
    lengths = response_lengths(tokens)
    sums = torch.zeros(len(lengths)).index_add(0, tokens.row, logprobs.float())
    return Groups(
        rewards=rewards.double().reshape(num_groups, -1),
        valid=valid.reshape(num_groups, -1),
        lengths=lengths.reshape(num_groups, -1),
        mean_logprobs=(sums / lengths).double().reshape(num_groups, -1),
    )


def select_rows(tokens: Tokens, rows: Tensor) -> tuple[Tokens, Tensor]:
    """The rows where `rows` (R,) is True, renumbered, and where their tokens were: (M,) bool."""
    part = rows[tokens.row]
    kept = torch.nonzero(rows)[:, 0]
    new_index = rows.cumsum(0) - 1
    taken = Tokens(
        sequences=[tokens.sequences[r] for r in kept.tolist()],
        prompt_lengths=tokens.prompt_lengths[kept],
        group=tokens.group[kept],
        row=new_index[tokens.row[part]],
        targets=tokens.targets[part],
    )
    return taken, part


def minibatches(
    tokens: Tokens,
    scored: Scored,
    advantages: Tensor,
    groups: Groups,
    *,
    prompts: int,
    entropy_bonus: float,
    loss_denominators: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> list[Batch]:
    """Cut a rollout batch into mini-batches of `prompts` prompts, in the order of the draws.

    advantages (M,); denominators: algo.loss.denominators with its mode chosen, counted over each
    mini-batch. A row is live, that is, can have a gradient, if it is valid and has an advantage or
    gets a bonus.
    """
    logprobs, entropy = scored
    valid, accuracy_bin = groups.valid.flatten(), accuracy_bins(groups).flatten()
    moved = torch.bincount(tokens.row, weights=(advantages != 0).double(), minlength=len(valid)) > 0
    has_gradient = valid & (moved | (entropy_bonus > 0))
    batches = []
    for index in range(-(-(int(tokens.group[-1]) + 1) // prompts)):
        rows = tokens.group // prompts == index
        mine, part = select_rows(tokens, rows)
        loss_mask = valid[tokens.row[part]].float()
        group = mine.group - index * prompts
        batches.append(
            Batch(
                sequences=mine.sequences,
                prompt_lengths=mine.prompt_lengths,
                group=group,
                row=mine.row,
                targets=mine.targets,
                advantages=advantages[part].float(),
                old_logprobs=logprobs[part],
                old_entropy=entropy[part],
                loss_mask=loss_mask,
                loss_denominators=loss_denominators(loss_mask, mine.row, group),
                has_gradient=has_gradient[rows],
                accuracy_bin=accuracy_bin[rows],
            )
        )
    return batches


def response_lengths(tokens: Tokens) -> Tensor:
    """(R,) response tokens of each row."""
    return torch.bincount(tokens.row, minlength=len(tokens.sequences))


def plan(lengths: Sequence[int], world_size: int, token_budget: int) -> list[list[list[int]]]:
    """Rows -> per rank, per micro-batch, row indices.

    lengths: tokens of each row, prompt included. A micro-batch's padded size (rows x its longest
    row) is at most `token_budget`, but for a single row that is longer by itself. Rows are dealt
    out in order of length, so neighbours are alike and ranks get like shares. Every rank gets the
    same number of micro-batches, filled up with empty ones (a distributed policy runs those with
    weight 0, so that its collectives match). Pure: the same arguments give the same plan.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    ranks = [pack(order[rank::world_size], lengths, token_budget) for rank in range(world_size)]
    most = max(len(micro_batches) for micro_batches in ranks)
    return [micro_batches + [[]] * (most - len(micro_batches)) for micro_batches in ranks]


def pack(rows: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Consecutive rows, longest first, into micro-batches of at most `token_budget` when padded."""
    packed: list[list[int]] = []
    for row in rows:
        if packed and lengths[packed[-1][0]] * (len(packed[-1]) + 1) <= token_budget:
            packed[-1].append(row)
        else:
            packed.append([row])
    return packed
