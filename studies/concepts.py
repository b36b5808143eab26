"""The figures of docs/concepts.md, drawn with the project's own estimators and diagnostics.

    python -m studies.concepts [--docs docs]

Three figures: the advantages of some members of the family over the accuracy p of a group; the mass
of each channel with its peak (Proposition 2); and the entropy after one natural-gradient step of
tabular softmax policies, beside what Proposition 1 predicts from kappa. Nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from asymrl.algo.advantages import asym
from asymrl.algo.diagnostics import channel_mass, kappa
from asymrl.report.drawing import COLOURS, MUTED, STYLE
from asymrl.run.exit_codes import exit_code
from asymrl.types import Groups, frozen

GROUP = 200  # rollouts of a group in the first two figures, so that p has 199 values
MEMBERS = {
    "REINFORCE (0, 0)": (0.0, 0.0),
    "GRPO (0.5, 0.5)": (0.5, 0.5),
    "AsymGRPO (0.9, 0.4)": (0.9, 0.4),
    "MaxRL (1, 0)": (1.0, 0.0),
}
BETAS = (0.1, 0.4, 0.9)  # of the second figure, for both channels
ANSWERS, POLICIES, ROLLOUTS = 12, 40, 4000  # of the third: answers to a prompt, prompts, samples
STEP = 1e-3  # of the natural gradient
SMALL, LARGE = ((0.05, 0.0), (0.0, 0.05)), ((0.5, 0.0), (0.0, 0.5), (0.9, 0.4))


@frozen
class EntropyStep:
    """One tabular policy: its kappa, and by how much (beta_pos, beta_neg) changes the entropy more
    than REINFORCE does, in nats, divided by the step."""

    kappa: float
    shifts: Mapping[tuple[float, float], float]


def groups_of(correct: Tensor, rollouts: int, logprobs: Tensor | None = None) -> Groups:
    """Groups of `rollouts`, the first `correct` of them with reward 1."""
    rewards = (torch.arange(rollouts) < correct[:, None]).double()
    values = torch.zeros_like(rewards) if logprobs is None else logprobs
    ones = torch.ones_like(rewards)
    return Groups(rewards=rewards, valid=ones.bool(), lengths=ones.long(), mean_logprobs=values)


def curves(beta_pos: float, beta_neg: float) -> tuple[Tensor, Tensor, Tensor]:
    """p, and the advantages of a correct and of a wrong rollout at it."""
    correct = torch.arange(1, GROUP)
    values = asym(groups_of(correct, GROUP), beta_pos=beta_pos, beta_neg=beta_neg)
    return correct / GROUP, values[:, 0], values[:, -1]


def masses(beta: float) -> tuple[Tensor, list[float], list[float]]:
    """p, W+ and W- at it, with `beta` for both channels."""
    p = torch.arange(1, GROUP) / GROUP
    positive, negative = [], []
    for correct in range(1, GROUP):
        groups = groups_of(torch.tensor([correct]), GROUP)
        mass = channel_mass(groups, asym(groups, beta_pos=beta, beta_neg=beta))
        positive.append(mass["diag/mass_positive"])
        negative.append(mass["diag/mass_negative"])
    return p, positive, negative


def entropy_steps(seed: int = 0) -> list[EntropyStep]:
    """One step of POLICIES tabular policies, in fp64.

    Each has ANSWERS answers with random logits, some of them correct. kappa is that of a group of
    ROLLOUTS sampled from it, whose accuracy also gives the advantages.
    """
    generator = torch.Generator().manual_seed(seed)
    return [one_policy(generator) for _ in range(POLICIES)]


def one_policy(generator: torch.Generator) -> EntropyStep:
    logits = 1.5 * torch.randn(ANSWERS, generator=generator, dtype=torch.float64)
    count = int(torch.randint(1, ANSWERS, (), generator=generator))
    is_correct = torch.arange(ANSWERS) < count
    policy = logits.softmax(0)
    answers = torch.multinomial(policy, ROLLOUTS, replacement=True, generator=generator)
    answers = answers[is_correct[answers].long().argsort(descending=True, stable=True)]
    correct = is_correct[answers].sum()[None]
    sampled = groups_of(correct, ROLLOUTS, policy[answers].log()[None])
    reference = entropy_after(logits, is_correct, sampled, 0.0, 0.0)
    shifts = {
        betas: (entropy_after(logits, is_correct, sampled, *betas) - reference) / STEP
        for betas in (*SMALL, *LARGE)
    }
    return EntropyStep(kappa=kappa(sampled), shifts=shifts)


def entropy_after(
    logits: Tensor, is_correct: Tensor, sampled: Groups, beta_pos: float, beta_neg: float
) -> float:
    """The entropy after one step. The natural gradient of a tabular softmax adds the advantage of
    each answer to its logit."""
    advantages = asym(sampled, beta_pos=beta_pos, beta_neg=beta_neg)[0]
    of_answer = torch.where(is_correct, advantages[0], advantages[-1])
    logprobs = (logits + STEP * of_answer).log_softmax(0)
    return -(logprobs.exp() * logprobs).sum().item()


def draw_family() -> Figure:
    figure, (left, right) = two_axes()
    for colour, (label, betas) in zip(COLOURS, MEMBERS.items(), strict=False):
        p, positive, negative = curves(*betas)
        left.plot(p, positive, color=colour, label=label)
        right.plot(p, negative, color=colour)
    left.set(xlabel="accuracy p of the group", ylim=(0, 5), title="advantage of a correct response")
    right.set(xlabel="accuracy p of the group", ylim=(-5, 0), title="advantage of a wrong response")
    left.legend(frameon=False)
    return figure


def draw_masses() -> Figure:
    figure, (left, right) = two_axes()
    for colour, beta in zip(COLOURS, BETAS, strict=False):
        p, positive, negative = masses(beta)
        for axes, mass, peak in ((left, positive, 1 - beta), (right, negative, beta)):
            axes.plot(p, mass, color=colour, label=f"beta = {beta}")
            axes.axvline(peak, color=colour, linewidth=0.8, linestyle=(0, (2, 2)))
    left.set(xlabel="accuracy p", title="W+(p), peak at 1 - beta_pos")
    right.set(xlabel="accuracy p", title="W-(p), peak at beta_neg")
    left.legend(frameon=False)
    return figure


def draw_entropy() -> Figure:
    figure, panels = two_axes()
    steps = entropy_steps()
    for axes, members in zip(panels, (SMALL, LARGE), strict=True):
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
        for colour, (pos, neg) in zip(COLOURS, members, strict=False):
            predicted = [(pos - neg) * step.kappa for step in steps]
            actual = [step.shifts[pos, neg] for step in steps]
            axes.scatter(predicted, actual, s=14, color=colour, label=f"({pos:g}, {neg:g})")
        axes.set(xlabel="predicted: (beta_pos - beta_neg) kappa")
        axes.legend(frameon=False)
    panels[0].set(title="small betas", ylabel="entropy change / step, nats")
    panels[1].set(title="betas in use")
    return figure


def two_axes() -> tuple[Figure, tuple[Axes, Axes]]:
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
    return figure, (left, right)


FIGURES = {
    "concepts_family.png": draw_family,
    "concepts_masses.png": draw_masses,
    "concepts_entropy.png": draw_entropy,
}


def write_figures(folder: Path) -> None:
    for name, draw in FIGURES.items():
        with rc_context(STYLE):
            draw().savefig(folder / name, dpi=150)
        print(f"wrote {folder / name}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the figures of docs/concepts.md.")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the figures")
    return exit_code(partial(write_figures, parser.parse_args(argv).docs))


if __name__ == "__main__":
    sys.exit(main())
