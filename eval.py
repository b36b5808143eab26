"""Score a checkpoint on benchmarks: avg@k and pass@k with standard errors. Wiring only.

    python eval.py --ckpt DIR_OR_HF_ID | --config CONFIG [--benchmarks math500,aime24,...]
        [--avg-at K|paper] [--temperature 0.4] [--max-tokens N] [--data-dir DIR] [--output DIR]

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
PAPER = "paper"
PLAIN_PROMPT = {"system": None, "user": BOXED, "template_kwargs": {"enable_thinking": False}}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--ckpt", help="a checkpoint, a model folder or a hub id")
    asked.add_argument("--config", help="the untrained model of that config, asked as it asks")
    parser.add_argument("--benchmarks", default=BENCHMARKS, help=f"default: {BENCHMARKS}")
    parser.add_argument(
        "--avg-at",
        type=samples_of,
        default=10,
        metavar="K|paper",
        help="samples a problem; paper: 5 on MATH-500 and OlympiadBench, 10 on the others",
    )
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
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def run(arguments: argparse.Namespace) -> None:
    refuse_numbers(arguments)
    from rich.console import Console

    from asymrl import checkpoint, evaluate, models, schema, verifiers
    from asymrl import config as configs
    from asymrl.engines.hf import HFEngine
    from asymrl.engines.world import World

    config = configs.load(arguments.config) if arguments.config else None
    model = config.model if config else schema.Model(path=arguments.ckpt)
    models.set_threads(arguments.threads)
    tokenizer = models.load_tokenizer(model)
    where = Path(models.locate(model.path)).resolve()
    defined = definitions(model, config, tokenizer) or checkpoint.definitions(where)
    folder = arguments.output or Path("runs") / "eval" / name_of(where)
    make_folder(folder)
    causal_lm = models.load_model(model, models.default_dtype())
    if defined:
        stop_ids, max_tokens = tuple(defined.sampling.stop_ids), defined.sampling.max_tokens
    else:
        stop_ids, max_tokens = models.stop_ids(model, tokenizer, ()), 4096
    console = Console()
    with (
        verifiers.make(
            **(defined.verifier if defined else schema.Verifier()).model_dump()
        ) as verifier,
        console.status("evaluate") as status,
    ):
        prompt = defined.prompt.model_dump() if defined else PLAIN_PROMPT
        results = evaluate.evaluate(
            HFEngine(causal_lm, tokenizer.decode, max_rows=512),
            verifier,
            load_benchmarks(arguments, tokenizer, prompt, verifier),
            samples=lambda name: samples_at(arguments.avg_at, name),
            sampling=Sampling(
                temperature=arguments.temperature,
                top_p=1.0,
                top_k=0,
                max_tokens=arguments.max_tokens or max_tokens,
                stop_ids=stop_ids,
            ),
            seed=arguments.seed,
            folder=folder,
            world=World(),
            progress=partial(show, console, status),
        )
    console.print(evaluate.table(results))
    print(f"every sample, and summary.json: {folder}")


def definitions(model: Any, config: Any, tokenizer: Any) -> Any:
    """What a checkpoint of this config would say, or None without one."""
    from asymrl import checkpoint, models

    if config is None:
        return None
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    stop_ids = models.stop_ids(model, tokenizer, config.rollout.stop)
    return checkpoint.Definitions.model_validate(
        {
            "prompt": config.data.prompt,
            "sampling": sampling
            | {"max_tokens": config.rollout.max_tokens, "stop_ids": list(stop_ids)},
            "verifier": config.verifier.model_dump(),
        }
    )


def name_of(checkpoint: Path) -> str:
    """runs/NAME/checkpoints/step-N is NAME-step-N, so that two runs do not meet."""
    if checkpoint.parent.name == "checkpoints":
        return f"{checkpoint.parent.parent.name}-{checkpoint.name}"
    return checkpoint.name


def make_folder(folder: Path) -> None:
    """Before any work, so that nothing is computed that cannot be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made a folder: {error.strerror}") from None


def show(console: Any, status: Any, done: int, total: int) -> None:
    """A live count on a terminal, a plain line every tenth elsewhere."""
    status.update(f"{done}/{total} responses")
    if not console.is_terminal and done % max(1, total // 10) == 0:
        print(f"{done}/{total} responses", flush=True)


def samples_of(text: str) -> int | str:
    """What --avg-at may be: argparse says so where this raises."""
    if text != PAPER and not text.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of samples nor paper")
    return text if text == PAPER else int(text)


def samples_at(avg_at: int | str, benchmark: str) -> int:
    """The paper's protocol takes fewer of the two large benchmarks (arXiv 2604.04894, App. H)."""
    if isinstance(avg_at, int):
        return avg_at
    return 5 if benchmark in ("math500", "olympiadbench") else 10


BOUNDS = {
    "avg_at": (1, 10_000),
    "temperature": (0, 100),
    "max_tokens": (1, 1_000_000),
    "limit": (1, 1_000_000_000),
    "threads": (0, 1024),
}


def refuse_numbers(arguments: argparse.Namespace) -> None:
    for name, (least, most) in BOUNDS.items():
        given = getattr(arguments, name)
        if given not in (None, PAPER) and not least <= given <= most:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {given} must be from {least} to {most}")
    if arguments.data_dir and not arguments.data_dir.is_dir():
        raise UserError(f"--data-dir {arguments.data_dir} is not a folder")


def load_benchmarks(
    arguments: argparse.Namespace, tokenizer: Any, prompt: dict[str, Any], verifier: Any
) -> dict[str, Any]:
    from asymrl import data

    names = [name.strip() for name in arguments.benchmarks.split(",") if name.strip()]
    folder = arguments.data_dir
    sources = [str(folder / f"{name}.jsonl") if folder else name for name in names]
    loaded = {}
    for name, source in zip(data.short_names(names), sources, strict=True):
        found = data.load_problems(
            source,
            tokenizer=tokenizer,
            prompt=prompt,
            max_prompt_tokens=sys.maxsize,
            limit=arguments.limit,
            verifier=verifier,
        )
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        loaded[name] = found.problems
    if not loaded:
        raise UserError("--benchmarks names no benchmark")
    return loaded


if __name__ == "__main__":
    sys.exit(main())
