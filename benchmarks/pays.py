"""Measures what each optimization is worth: the time with it divided by the time without it.

Uses the model and settings of `subject.py` and one thread. Runs with and without alternate; the
numbers are medians of the rounds, in seconds of processor time (wall time if other processes work
too). "Long prompts" repeat those of `subject.py` eight times.

    python benchmarks/pays.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import scaling
import subject
import torch
from transformers import AutoTokenizer
from turns import ratio_of_medians, save_results, table

from asymrl.algo.batch import tokenise
from asymrl.engines import local, micro_batches
from asymrl.engines.distributed import World
from asymrl.engines.hf import HFEngine
from asymrl.training.metrics import rollout_metrics
from asymrl.training.rollout import generate_and_verify
from asymrl.types import Request
from asymrl.verifiers import make

LONG = 8  # repetitions of the prompt
Action = Callable[[], object]


def seconds(action: Action, clock: Callable[[], float]) -> float:
    start = clock()
    action()
    return clock() - start


class Subject:
    """The parts of a step, with prompts repeated `long` times."""

    def __init__(self, long: int = 1) -> None:
        path = subject.folder(subject.SMALL)
        self.tokenizer, self.cfg = AutoTokenizer.from_pretrained(path), subject.config(1, path)
        problems = [
            replace(each, prompt_ids=each.prompt_ids * long)
            for each in subject.problems(self.tokenizer)
        ]
        self.requests = subject.requests(self.cfg, problems)
        self.engine, self.policy = subject.engine(path, self.tokenizer), subject.policy(path)
        self.rollouts = self.sample()
        self.batches, self.loss = subject.cut(self.cfg, self.requests, self.rollouts, 1.0)
        self.tokens = tokenise(self.requests, self.rollouts)

    def sample(self, requests: Sequence[Request] | None = None, stops: bool = True) -> Any:
        sampling = subject.sampling()
        sampling = sampling if stops else replace(sampling, stop_ids=(-1,))
        return subject.generated(self.engine, requests or self.requests, sampling)

    def backward(self) -> None:
        for part in self.batches:
            self.policy.backward(part, self.loss)

    def score(self) -> None:
        self.policy.score(self.tokens)

    def measure(self) -> None:
        """The metrics of a rollout batch, from what generating and updating left."""
        rollout_metrics(subject.experience(self.cfg, self.requests, self.rollouts, 1.0))


def unsorted(
    lengths: Sequence[int], world_size: int, token_budget: int, micro_batch_cost: int
) -> Any:
    """Like batch.plan without a cost, but with the rows in their original order."""
    assert world_size == 1
    packed: list[list[int]] = []
    for row in range(len(lengths)):
        longest = max(lengths[each] for each in [*(packed[-1] if packed else []), row])
        if packed and longest * (len(packed[-1]) + 1) <= token_budget:
            packed[-1].append(row)
        else:
            packed.append([row])
    return [packed]


def one_by_one(requests: Sequence[Request]) -> list[Request]:
    """Each sample as its own request, so that the prompt is computed for every sample."""
    return [replace(each, samples=1) for each in requests for _ in range(each.samples)]


def without(thing: Any, name: str, other: Any, action: Action) -> Action:
    def go() -> None:
        with patch.object(thing, name, other):
            action()

    return go


def optimizers(policy: Any) -> dict[str, Any]:
    """Two implementations of AdamW, on copies of the parameters with gradients."""
    by_kind = {}
    kinds: list[dict[str, Any]] = [{"fused": True}, {"foreach": True}]
    for kind in kinds:
        weights = [torch.nn.Parameter(p.detach().clone()) for p in policy.module.parameters()]
        for weight in weights:
            weight.grad = torch.full_like(weight, 1e-3)
        by_kind[next(iter(kind))] = torch.optim.AdamW(weights, lr=1e-7, **kind)
    return by_kind


def verified(small: Subject, at_once: bool) -> Action:
    """Generate responses that hold fractions, and verify them with the math verifier in one other
    process; at_once: while generating, otherwise afterwards."""

    def text(ids: Sequence[int]) -> str:
        return rf"so it is \boxed{{\frac{{{sum(ids)}}}{{{len(ids)}}}}}"

    verifier = make("math", workers=1)
    engine = HFEngine(small.engine.model, text, 512)
    settings = {"verifier": verifier, "sampling": subject.sampling(), "world": World()}

    class Late:
        def generate(self, *arguments: Any) -> Iterator[Any]:
            yield from list(engine.generate(*arguments))

    chosen: Any = engine if at_once else Late()
    return lambda: generate_and_verify(small.requests, engine=chosen, **settings)


def trials() -> Iterator[tuple[str, Action, Action, Callable[[], float]]]:
    small, long = Subject(), Subject(LONG)
    cpu, wall = time.process_time, time.perf_counter
    step = (small.sample, small.backward)
    yield (
        "rows of similar length together, update",
        small.backward,
        without(micro_batches, "plan", unsorted, small.backward),
        cpu,
    )
    yield (
        "micro-batches that fit the cache (768 tokens, not 16,384), update",
        small.backward,
        without(local, "CPU_TOKENS", 16_384, small.backward),
        cpu,
    )
    yield (
        "rows cut for the fewest padded tokens, 128 more for each micro-batch, update",
        without(small.policy, "micro_batch_cost", 128, small.backward),
        small.backward,
        cpu,
    )
    yield (
        "finished rows leave the batch, generate (without: all run to 48 tokens)",
        small.sample,
        lambda: small.sample(stops=False),
        cpu,
    )
    for which, where in (("short", small), ("long", long)):
        alone = one_by_one(where.requests)
        yield (
            f"a prompt computed once for its samples, generate, {which} prompts",
            where.sample,
            lambda where=where, alone=alone: where.sample(alone),
            cpu,
        )
        yield (
            f"a prompt computed once for its rows, update, {which} prompts",
            where.backward,
            without(where.policy, "shares_prompts", False, where.backward),
            cpu,
        )
    yield (
        "no score pass for log-probs, step",
        lambda: [part() for part in step],
        lambda: [part() for part in (*step, small.score)],
        cpu,
    )
    yield (
        "verify while generating, generate and verify",
        verified(small, at_once=True),
        verified(small, at_once=False),
        wall,
    )
    kinds = optimizers(small.policy)
    yield "fused AdamW, its step", kinds["fused"].step, kinds["foreach"].step, cpu
    yield (
        "metrics without a forward pass of their own, step",
        lambda: [part() for part in (*step, small.measure)],
        lambda: [part() for part in (*step, small.measure, small.score)],
        cpu,
    )
    name = "the metrics themselves, step (with: computed; without: not computed)"
    yield name, lambda: [p() for p in (*step, small.measure)], lambda: [p() for p in step], cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, numbers = [], {}
    for name, mine, other, clock in trials():
        mine()
        other()
        both = [(seconds(mine, clock), seconds(other, clock)) for _ in range(arguments.rounds)]
        ours, theirs = zip(*both, strict=True)
        ratio = ratio_of_medians(ours, theirs)
        shown = [f"{statistics.median(times):.4f}" for times in (ours, theirs)]
        rows.append([name, *shown, f"{ratio:.2f}"])
        numbers[name] = {"with": ours, "without": theirs}
        print(f"{ratio:.2f} {name}", flush=True)
    if find_spec("deepspeed"):
        one, two = (scaling.time_ranks(3, [2], threads)[2] for threads in (1, 2))
        name = "one thread a rank, with two ranks on two cores, ZeRO-3 update"
        rows.append([name, f"{one:.4f}", f"{two:.4f}", f"{one / two:.2f}"])
        numbers[name] = {"with": [one], "without": [two]}
    text = table(["what", "with, s", "without, s", "ratio"], rows)
    told = f"One thread; medians of {arguments.rounds} by turns; of ranks the least of 3."
    save_results("pays", f"{text}\n\n{told}", numbers)


if __name__ == "__main__":
    main()
