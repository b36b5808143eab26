"""Score a checkpoint on benchmarks: avg@k, pass@k, majority@k, with standard errors.

    python eval.py --ckpt DIR_OR_HF_ID | --config CONFIG [--benchmarks math500,aime24,...]
        [--avg-at K|paper] [--temperature 0.4] [--max-tokens N] [--data-dir DIR] [--output DIR]
        [--problem-field NAME] [--answer-field NAME] [--data-config NAME] [--data-split NAME]
    accelerate launch eval.py ...     # one process per GPU, each with a share of the problems

Prompt, stop tokens, length, verifier and columns come from the checkpoint (asymrl.json). For a
plain Hugging Face model, the prompt is the problem with the usual request for a boxed answer, in
the model's chat template. Samples are saved as they are generated: run the same command again to
resume. The work is done in asymrl/evaluation/setup.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from asymrl.evaluation.options import BENCHMARKS, ENGINES, build_options
from asymrl.run.exit_codes import exit_code


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--ckpt", help="a checkpoint, a model folder or a hub id")
    model.add_argument("--config", help="evaluate the untrained model of this config")
    add = parser.add_argument
    add(
        "--benchmarks",
        default=BENCHMARKS,
        help=f"names, files or hub data sets org/name, with commas; default: {BENCHMARKS}",
    )
    add(
        "--avg-at",
        type=avg_at,
        default=10,
        metavar="K|paper",
        help="samples per problem; paper: 5 on MATH-500 and OlympiadBench, 10 on the others",
    )
    add("--temperature", type=float, default=0.4)
    add("--max-tokens", type=int, help="default: the checkpoint's, else 4096")
    add("--data-dir", type=Path, help="read NAME.jsonl from this folder instead of the hub")
    add("--problem-field", help="column of the problems in own files; default: as in training")
    add("--answer-field", help="column of the answers in own files; default: as in training")
    add("--data-config", help="config of benchmarks that are hub data sets, org/name")
    add("--data-split", default="test", help="split of hub data sets; default: test")
    add("--output", type=Path, help="default: runs/eval/<name of the checkpoint or config>")
    add(
        "--replace", action="store_true", help="delete samples in --output that have other settings"
    )
    add(
        "--limit",
        type=int,
        help="use only the first N problems of each benchmark; default: eval.limit of --config",
    )
    add("--allow-count", action="store_true", help="accept files that are not the whole benchmark")
    add(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="auto: vLLM if there is a GPU and vLLM is installed, else hf",
    )
    add("--chunk", type=int, default=1024, help="samples per process between two saves")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    words = sys.argv[1:] if argv is None else argv
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    if twice := next((flag for flag in flags if flags.count(flag) > 1), None):
        parser.error(f"{twice} is given twice; give it once")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(partial(run, parse(argv)))


def run(arguments: argparse.Namespace) -> None:
    options = build_options(**vars(arguments))
    from asymrl.evaluation.setup import run_evaluation

    run_evaluation(options)


def avg_at(text: str) -> int | str:
    """The type of --avg-at: a number, or `paper`."""
    if text != "paper" and not text.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of samples nor paper")
    return text if text == "paper" else int(text)


if __name__ == "__main__":
    sys.exit(main())
