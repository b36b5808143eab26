"""Score a checkpoint on benchmarks: avg@k and pass@k with standard errors. Wiring only.

    python eval.py --ckpt DIR_OR_HF_ID [--benchmarks math500,aime24,...] [--avg-at K]
        [--temperature 0.4] [--max-tokens N] [--data-dir DIR] [--output DIR]

Prompt, stop and length definitions come from the checkpoint (asymrl.json); a plain Hugging Face
model gets its chat template around the problem and the usual sentence about the box.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asymrl.types import Sampling, UserError

BENCHMARKS = "math500,aime24,aime25,amc23,olympiadbench"
BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
PLAIN_PROMPT = {"system": None, "user": BOXED, "template_kwargs": {"enable_thinking": False}}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ckpt", required=True, help="a checkpoint, a model folder or a hub id")
    parser.add_argument("--benchmarks", default=BENCHMARKS, help=f"default: {BENCHMARKS}")
    parser.add_argument("--avg-at", type=int, default=10, metavar="K", help="samples a problem")
    parser.add_argument("--temperature", type=float, default=0.4)
    parser.add_argument("--max-tokens", type=int, help="default: the checkpoint's, else 4096")
    parser.add_argument("--data-dir", type=Path, help="read NAME.jsonl there, not from the hub")
    parser.add_argument("--output", type=Path, help="default: runs/eval/<name of the checkpoint>")
    parser.add_argument("--limit", type=int, help="the first so many problems of each benchmark")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(parse(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(arguments: argparse.Namespace) -> None:
    refuse_numbers(arguments)
    from rich.console import Console

    from asymrl import checkpoint, config, evaluate, models, verifiers
    from asymrl.engines.hf import HFEngine

    model = config.Model(path=arguments.ckpt)
    models.set_threads(arguments.threads)
    tokenizer = models.load_tokenizer(model)
    defined = checkpoint.definitions(Path(models.locate(model.path))) or {}
    causal_lm = models.load_model(model, models.default_dtype())
    trained_with = defined.get("sampling", {})
    sampling = Sampling(
        temperature=arguments.temperature,
        top_p=1.0,
        top_k=0,
        max_tokens=arguments.max_tokens or trained_with.get("max_tokens", 4096),
        stop_ids=tuple(trained_with.get("stop_ids", ()))
        or models.stop_ids(causal_lm, tokenizer, ()),
    )
    name = Path(models.locate(arguments.ckpt)).resolve().name
    folder = arguments.output or Path("runs") / "eval" / name
    console = Console()
    with (
        verifiers.make(defined.get("verifier", "math")) as verifier,
        console.status("evaluate") as status,
    ):
        benchmarks = load_benchmarks(
            arguments, tokenizer, defined.get("prompt", PLAIN_PROMPT), verifier
        )
        results = evaluate.evaluate(
            HFEngine(causal_lm, tokenizer.decode, max_rows=512),
            verifier,
            benchmarks,
            samples=arguments.avg_at,
            sampling=sampling,
            seed=arguments.seed,
            folder=folder,
            progress=partial(show, console, status),
        )
    console.print(evaluate.table(results))
    print(f"every sample, and summary.json: {folder}")


def show(console: Any, status: Any, done: int, total: int) -> None:
    """A live count on a terminal, a plain line every tenth elsewhere."""
    status.update(f"{done}/{total} responses")
    if not console.is_terminal and done % max(1, total // 10) == 0:
        print(f"{done}/{total} responses", flush=True)


def refuse_numbers(arguments: argparse.Namespace) -> None:
    for name, least in (("avg_at", 1), ("temperature", 0), ("max_tokens", 1), ("limit", 1)):
        given = getattr(arguments, name)
        if given is not None and not given >= least:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {given} must be at least {least}")
    if arguments.data_dir and not arguments.data_dir.is_dir():
        raise UserError(f"--data-dir {arguments.data_dir} is not a folder")


def load_benchmarks(
    arguments: argparse.Namespace, tokenizer: Any, prompt: dict[str, Any], verifier: Any
) -> dict[str, Any]:
    from asymrl import data

    loaded = {}
    for name in arguments.benchmarks.split(","):
        local = arguments.data_dir / f"{name}.jsonl" if arguments.data_dir else None
        found = data.load_problems(
            str(local or name),
            tokenizer=tokenizer,
            prompt=prompt,
            max_prompt_tokens=sys.maxsize,
            limit=arguments.limit,
            verifier=verifier,
        )
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        loaded[data.short_name(name)] = found.problems
    return loaded


if __name__ == "__main__":
    sys.exit(main())
