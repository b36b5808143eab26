"""Plots a run on a task of reasoning-gym by step, beside the untrained policy.

Left: held-out accuracy, greedy, with its standard error over problems; the dashed line is that of
the untrained policy. Right: the mean reward of a step and the share of responses that are cut off.

    python benchmarks/reasoning_curve.py --run runs/smollm2_gym --out docs/reasoning.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from stack_curves import series

from asymrl.files import read_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    _, first = next(read_jsonl(arguments.run / "metrics.jsonl"))
    (accuracy,) = (name for name in first if name.endswith("/greedy/avg"))
    steps, means = series(arguments.run, accuracy)
    _, errors = series(arguments.run, accuracy.replace("/avg", "/stderr"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.errorbar(steps, means, errors, color="#0072b2", marker="o", capsize=3, label="trained")
    left.axhline(means[0], color="#555555", ls="--", lw=1, label="untrained")
    left.set(xlabel="step", ylabel="held-out accuracy, greedy", ylim=(0, 1))
    for name, label, colour in (
        ("reward/mean", "mean reward", "#0072b2"),
        ("rollout/truncated", "cut off", "#d55e00"),
    ):
        right.plot(*series(arguments.run, name), color=colour, label=label)
    right.set(xlabel="step", ylabel="share of a step's responses", ylim=(0, 1))
    for axes in (left, right):
        axes.legend(loc="upper right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
