"""Plots runs on vLLM + ZeRO-3 beside runs on hf + local, by step.

Left: held-out accuracy. Right: the difference between vLLM's log-probs and the policy's.

    python benchmarks/stack_curves.py --stack runs/stack0 ... --local runs/local0 ... --out FILE.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from asymrl.files import read_jsonl

LABELS = {"stack": "vLLM + ZeRO-3, 2 ranks", "local": "hf + local, 1 process"}
COLOURS = {"stack": "#0072b2", "local": "#d55e00"}  # distinguishable with colour blindness
ACCURACY = "eval/pocket_heldout/greedy/avg"


def series(folder: Path, name: str) -> tuple[list[int], list[float]]:
    rows = [row for _, row in read_jsonl(folder / "metrics.jsonl")]
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in points], [number for _, number in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for kind in LABELS:
        parser.add_argument(f"--{kind}", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for kind, colour in COLOURS.items():
        for n, folder in enumerate(getattr(arguments, kind)):
            label = None if n else f"{LABELS[kind]} ({len(getattr(arguments, kind))} seeds)"
            left.plot(*series(folder, ACCURACY), color=colour, lw=1.5, label=label)
    left.set(xlabel="step", ylabel="held-out accuracy, greedy", ylim=(0, 1))
    left.legend(loc="lower right", frameon=False)
    for n, folder in enumerate(arguments.stack):
        for statistic, style in (("max", ":"), ("mean", "-")):
            label = None if n else f"{statistic} over a step's tokens"
            points = series(folder, f"rollout/logprob_mismatch_{statistic}")
            right.plot(*points, color=COLOURS["stack"], lw=1, ls=style, label=label)
    right.set(xlabel="step", ylabel="|vLLM - policy| log-prob, nats", yscale="log")
    right.set_ylim(1e-8, 1e-3)
    right.legend(loc="upper right", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
