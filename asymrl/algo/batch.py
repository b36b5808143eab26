"""Rollouts and advantages -> mini-batches of flat tokens, and rows -> ranks and micro-batches.

Pure functions on the values of types.py. This module does not know models, devices or processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asymrl.algo.diagnostics import accuracy_bins
from asymrl.types import Batch, Groups, Request, Rollout, Scored, Tokens


def tokenise(requests: Sequence[Request], rollouts: Sequence[Rollout]) -> Tokens:
    """The rollouts as Tokens, one row each, responses laid end to end. Request n is group n.

    `rollouts` must be sorted by draw and sample.
    """
    group_of_draw = {request.draw: n for n, request in enumerate(requests)}
    group = torch.tensor([group_of_draw[rollout.draw] for rollout in rollouts])
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
    """(M,): log-probs of the response tokens as the engine sampled them, in nats."""
    return torch.tensor([value for rollout in rollouts for value in rollout.engine_logprobs])


def engine_values(rollouts: Sequence[Rollout]) -> Scored:
    """Log-probs (M,) and entropy (M,) from the engine, for engines with exact_logprobs."""
    entropy = [value for rollout in rollouts for value in rollout.engine_entropy or ()]
    return engine_logprobs(rollouts), torch.tensor(entropy)


def make_groups(tokens: Tokens, scored: Scored, rewards: Tensor, valid: Tensor) -> Groups:
    """The input of an advantage estimator: G consecutive rows form a group.

    rewards, valid (R,), in the order of the rows. Rewards become fp64, because an advantage is a
    power of a ratio of small integers.
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


def response_lengths(tokens: Tokens) -> Tensor:
    """(R,): number of response tokens in each row."""
    return torch.bincount(tokens.row, minlength=len(tokens.sequences))


def select_rows(tokens: Tokens, row_mask: Tensor) -> tuple[Tokens, Tensor]:
    """The rows where `row_mask` (R,) is True, renumbered from 0, and the mask (M,) of their tokens.

    Groups keep their numbers.
    """
    token_mask = row_mask[tokens.row]
    rows = torch.nonzero(row_mask)[:, 0]
    new_index = row_mask.cumsum(0) - 1
    selection = Tokens(
        sequences=[tokens.sequences[r] for r in rows.tolist()],
        prompt_lengths=tokens.prompt_lengths[rows],
        group=tokens.group[rows],
        row=new_index[tokens.row[token_mask]],
        targets=tokens.targets[token_mask],
    )
    return selection, token_mask


def minibatches(
    tokens: Tokens,
    scored: Scored,
    advantages: Tensor,
    groups: Groups,
    *,
    prompts: int,
    loss_denominators: Callable[[Tensor, Tensor, Tensor], Tensor],
    every_row: bool = False,
    reference_logprobs: Tensor | None = None,
) -> list[Batch]:
    """Split a rollout batch into mini-batches of `prompts` prompts each, in the order of the draws.

    advantages (M,). loss_denominators: `asymrl.algo.loss.loss_denominators` with its keywords
    bound, for a whole mini-batch. A row has a gradient if it is valid and has a nonzero advantage.
    every_row: every valid row has one, because of an entropy bonus or a KL penalty. The last
    mini-batch is smaller if `prompts` does not divide the number of prompts.
    """
    logprobs, entropy = scored
    valid, accuracy_bin = groups.valid.flatten(), accuracy_bins(groups).flatten()
    nonzero = (advantages != 0).double()
    has_advantage = torch.bincount(tokens.row, weights=nonzero, minlength=len(valid)) > 0
    has_gradient = valid & (has_advantage | every_row)
    batches = []
    for index in range(-(-(int(tokens.group[-1]) + 1) // prompts)):
        row_mask = tokens.group // prompts == index
        part, token_mask = select_rows(tokens, row_mask)
        loss_mask = valid[tokens.row[token_mask]].float()
        group = part.group - index * prompts
        batches.append(
            Batch(
                sequences=part.sequences,
                prompt_lengths=part.prompt_lengths,
                group=group,
                row=part.row,
                targets=part.targets,
                advantages=advantages[token_mask].float(),
                old_logprobs=logprobs[token_mask],
                old_entropy=entropy[token_mask],
                loss_mask=loss_mask,
                loss_denominators=loss_denominators(loss_mask, part.row, group),
                has_gradient=has_gradient[row_mask],
                accuracy_bin=accuracy_bin[row_mask],
                reference_logprobs=(
                    None if reference_logprobs is None else reference_logprobs[token_mask]
                ),
            )
        )
    return batches


def plan(
    lengths: Sequence[int], world_size: int, token_budget: int, micro_batch_cost: int = 0
) -> list[list[list[int]]]:
    """Assign rows to ranks and micro-batches: for each rank, for each micro-batch, row indices.

    lengths: tokens of each row, prompt included. The padded size of a micro-batch (its number of
    rows x its longest row) is at most `token_budget`, except for a single row that is longer than
    the budget. Rows are dealt to the ranks in order of length, from the longest, so that a
    micro-batch holds rows of similar length and ranks get similar work. Every rank gets the same
    number of micro-batches, of which some may be empty, so that all call the same collectives.

    micro_batch_cost: 0 fills each micro-batch to the budget. Otherwise the ranks' micro-batches are
    cut together, such that padded tokens plus so many tokens a micro-batch are fewest.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    if micro_batch_cost:
        deals = [order[start : start + world_size] for start in range(0, len(order), world_size)]
        cuts = cheapest_cuts([lengths[deal[0]] for deal in deals], token_budget, micro_batch_cost)
        return [
            [[deal[rank] for deal in deals[start:stop] if rank < len(deal)] for start, stop in cuts]
            for rank in range(world_size)
        ]
    ranks: list[list[list[int]]] = [[] for _ in range(world_size)]
    for index, row in enumerate(order):
        micro_batches = ranks[index % world_size]
        last = micro_batches[-1] if micro_batches else []
        if last and lengths[last[0]] * (len(last) + 1) <= token_budget:
            last.append(row)
        else:
            micro_batches.append([row])
    most = max(len(micro_batches) for micro_batches in ranks)
    return [micro_batches + [[]] * (most - len(micro_batches)) for micro_batches in ranks]


def cheapest_cuts(
    lengths: Sequence[int], token_budget: int, micro_batch_cost: int
) -> list[tuple[int, int]]:
    """(start, stop) of consecutive micro-batches over rows that fall in length, with the smallest
    sum of padded tokens and `micro_batch_cost` for each; sizes as in `plan`."""
    costs, starts = [0], [0]  # of the first n rows, and of their last micro-batch
    for stop in range(1, len(lengths) + 1):
        best, best_start = math.inf, stop - 1
        for start in range(stop - 1, -1, -1):
            padded = (stop - start) * lengths[start]
            if padded > token_budget and start < stop - 1:
                break
            if (cost := costs[start] + padded + micro_batch_cost) < best:
                best, best_start = cost, start
        costs.append(int(best))
        starts.append(best_start)
    cuts, stop = [], len(lengths)
    while stop:
        cuts.append((starts[stop], stop))
        stop = starts[stop]
    return cuts[::-1]
