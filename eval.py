"""Score a checkpoint on benchmarks: avg@k, pass@k, majority@k, with standard errors. Wiring only.

    python eval.py --ckpt DIR_OR_HF_ID | --config CONFIG [--benchmarks math500,aime24,...]
        [--avg-at K|paper] [--temperature 0.4] [--max-tokens N] [--data-dir DIR] [--output DIR]
    accelerate launch eval.py ...     # one process a GPU, each with a share of the problems

Prompt, stop, length and verifier definitions come from the checkpoint (asymrl.json); a plain
Hugging Face model gets its chat template around the problem and the usual sentence about the box.
Samples are kept as they come: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from asymrl.data.readers import short_names
from asymrl.errors import UserError
from asymrl.run.exit_codes import exit_code

BENCHMARKS = "math500,aime24,aime25,amc23,olympiadbench"
PAPER = "paper"
MAX_ROWS = 512  # sampled at a time, on each engine
HF_TOKENS = 2**18  # prompts and responses that hf keeps at a time: 40 GB of Qwen3-4B's cache
ENGINES = ("auto", "hf", "vllm")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--ckpt", help="a checkpoint, a model folder or a hub id")
    asked.add_argument("--config", help="the untrained model of that config, asked as it asks")
    add = parser.add_argument
    add("--benchmarks", default=BENCHMARKS, help=f"default: {BENCHMARKS}")
    add(
        "--avg-at",
        type=samples_of,
        default=10,
        metavar="K|paper",
        help="samples a problem; paper: 5 on MATH-500 and OlympiadBench, 10 on the others",
    )
    add("--temperature", type=float, default=0.4)
    add("--max-tokens", type=int, help="default: the checkpoint's, else 4096")
    add("--data-dir", type=Path, help="read NAME.jsonl there, not from the hub")
    add("--output", type=Path, help="default: runs/eval/<name of the checkpoint or config>")
    add("--replace", action="store_true", help="drop samples of other settings from --output")
    add("--limit", type=int, help="the first so many problems of each benchmark")
    add("--allow-count", action="store_true", help="take files that are not the whole benchmark")
    add("--engine", choices=ENGINES, default="auto", help="auto: vLLM where there is a GPU and it")
    add("--chunk", type=int, default=1024, help="samples of each process between two saves")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    words = sys.argv[1:] if argv is None else argv
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    if twice := next((flag for flag in flags if flags.count(flag) > 1), None):
        parser.error(f"{twice} is given twice, and only one can be meant; give it once")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    return exit_code(partial(run, arguments))


def run(arguments: argparse.Namespace) -> None:
    refuse_numbers(arguments)
    from asymrl import verifiers
    from asymrl.config.schema import DeadlinesConfig
    from asymrl.engines import build, pretrained
    from asymrl.engines import distributed as worlds
    from asymrl.evaluation import evaluate, results_folder, settings
    from asymrl.run.watchdog import Watchdog

    world, deadlines = worlds.from_environment(), DeadlinesConfig()
    engine, why = build.choose_engine(arguments.engine, build.machine(world), "--engine")
    print(f"samples: {engine} ({why})", flush=True)
    pretrained.set_threads(arguments.threads)
    with ExitStack() as stack:
        if world.size > 1:
            worlds.join(world, deadlines.load)
        watch = stack.enter_context(Watchdog(world, deadlines.model_dump(), Path()))
        asked = find(arguments, world)
        verifier = stack.enter_context(verifiers.make(**asked.verifier))
        with world.in_turn():
            benchmarks, notes = load_benchmarks(arguments, asked, verifier)
        longest = max(len(p.prompt_ids) for part in benchmarks.values() for p in part)
        sampling, told = settings.sampling(
            asked, longest, arguments.temperature, arguments.max_tokens
        )
        for note in [*asked.notes, *notes, *told] if world.first else []:
            print(f"note: {note}", file=sys.stderr, flush=True)
        counts = {name: samples_at(arguments.avg_at, name) for name in benchmarks}
        folder = arguments.output or Path("runs") / "eval" / asked.name
        with world.in_turn():
            if world.first:
                stack.enter_context(results_folder.open_results_folder(folder))
        watch.folder = folder
        console = terminal()
        results = evaluate.evaluate(
            partial(make_engine, engine, asked, world, longest + sampling.max_tokens),
            verifier,
            benchmarks,
            samples=counts.__getitem__,
            sampling=sampling,
            seed=arguments.seed,
            folder=folder,
            world=world,
            progress=partial(heard, watch, stack.enter_context(shown(console))),
            chunk=arguments.chunk,
            settings=settings.eval_settings(
                asked,
                benchmarks,
                counts,
                sampling,
                arguments.seed,
                engine,
                arguments.chunk * world.size,
            ),
            replace=arguments.replace,
        )
    console.print(evaluate.results_table(results))
    print(f"every sample, and summary.json: {folder}")


def find(arguments: argparse.Namespace, world: Any) -> Any:
    """Who is asked, and how: on every rank the one that the first rank found."""
    from asymrl.evaluation import settings

    place = None
    with world.in_turn():
        if world.first and arguments.ckpt:
            place = settings.resolve_checkpoint(arguments.ckpt)
    (place, *_) = world.gather(place)
    with world.in_turn():  # downloads
        return settings.find_model(place, arguments.config)


def make_engine(name: str, asked: Any, world: Any, room: int) -> Any:
    """The engine with its weights; on a GPU in bf16."""
    from asymrl.engines import pretrained

    dtype = pretrained.default_dtype()
    if name == "hf":
        from asymrl.engines.hf import HFEngine

        rows = min(MAX_ROWS, max(1, HF_TOKENS // room))
        return HFEngine(pretrained.load_model(asked.model, dtype), asked.tokenizer.decode, rows)
    from asymrl.engines.rollout import fingerprint
    from asymrl.engines.vllm import VLLMEngine

    engine = VLLMEngine(
        pretrained.locate(asked.model.path),
        asked.tokenizer.decode,
        world=world,
        dtype=dtype,
        max_model_len=room,
        max_rows=MAX_ROWS,
        gpu_memory_utilization=0.85,  # nothing else is on the GPU, but for what a check takes
        revision=asked.model.revision,
        trust_remote_code=asked.model.trust_remote_code,
    )
    weights = pretrained.load_model(asked.model, dtype, device="cpu")
    engine.load_weights((n, tensor.detach()) for n, tensor in weights.named_parameters())
    for n, tensor in weights.named_parameters():
        sent, arrived = fingerprint(tensor), engine.fingerprint([n])[n]
        if not math.isclose(sent, arrived, rel_tol=1e-9, abs_tol=1e-9):
            raise RuntimeError(f"{n} is {sent} in the checkpoint and {arrived} in vLLM")
    return engine


def terminal() -> Any:
    """Of its own width; elsewhere, as in a log, wide enough for a whole table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


@contextmanager
def shown(console: Any) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal, plain lines elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("responses, left"))
    live = console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not live) as bar:
        bar.add_task("evaluate", total=None)
        yield partial(tell, bar, live)


def heard(watch: Any, show: Callable[[int, int], None], done: int, total: int) -> None:
    """An evaluation without news is ended, as a run is: asymrl/run/watchdog.py."""
    watch.phase("evaluate", done, total)
    show(done, total)


def tell(bar: Any, live: bool, done: int, total: int) -> None:
    """What was there at the first call took no time, and does not count in the time left."""
    (task,) = bar.tasks
    if task.total is None:
        bar.reset(task.id, total=total, completed=done)
        if done:
            print(f"{done} of {total} responses are there already", flush=True)
        return
    before, tenth = task.completed, max(1, total // 10)
    bar.update(task.id, completed=done)
    if not live and done // tenth > before // tenth:
        left = task.time_remaining
        eta = f", {int(left) // 60}:{int(left) % 60:02d} left" if left else ""
        print(f"{done}/{total} responses{eta}", flush=True)


def samples_of(text: str) -> int | str:
    """What --avg-at may be: argparse says so where this raises."""
    if text != PAPER and not text.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of samples nor paper")
    return text if text == PAPER else int(text)


def samples_at(avg_at: int | str, benchmark: str) -> int:
    """The paper's protocol takes fewer of the two large benchmarks (arXiv 2604.04894, App. H)."""
    if isinstance(avg_at, int):
        return avg_at
    from asymrl.data.sources import source_of_file

    return 5 if source_of_file(benchmark) in ("math500", "olympiadbench") else 10


LONGEST_NAME = 255  # characters that a file's or a folder's name may have
VALID = {
    "ckpt": "a checkpoint, a model folder or a hub id",
    "config": "a config's name in configs/ or its path",
}
BOUNDS = {
    "avg_at": (1, 10_000),
    "temperature": (0, 100),
    "max_tokens": (1, 1_000_000),
    "limit": (1, 1_000_000_000),
    "chunk": (1, 1_000_000_000),
    "threads": (0, 1024),
}


def refuse_numbers(arguments: argparse.Namespace) -> None:
    for name, valid in VALID.items():
        given = getattr(arguments, name)
        if given is not None and (not given or max(map(len, given.split("/"))) > LONGEST_NAME):
            what = "too long for a file's name" if given else "empty"
            raise UserError(f"--{name} is {what}; valid is {valid}")
    for name, (least, most) in BOUNDS.items():
        given = getattr(arguments, name)
        if given not in (None, PAPER) and not least <= given <= most:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {given} must be from {least} to {most}")
    if arguments.data_dir and not arguments.data_dir.is_dir():
        raise UserError(f"--data-dir {arguments.data_dir} is not a folder")


def load_benchmarks(
    arguments: argparse.Namespace, asked: Any, verifier: Any
) -> tuple[dict[str, Any], list[str]]:
    """Problems by benchmark, and notes."""
    from asymrl import pocket
    from asymrl.data import problems, sources

    names = [name.strip() for name in arguments.benchmarks.split(",") if name.strip()]
    if "mean" in short_names(names):
        raise UserError("--benchmarks mean: that is what the mean over benchmarks is called")
    where = [sources.locate_benchmark(name, arguments.data_dir, [*pocket.DATA]) for name in names]
    loaded, notes = {}, []
    for name, source in zip(short_names(names), where, strict=True):
        found = problems.load_problems(
            source,
            tokenizer=asked.tokenizer,
            prompt=asked.prompt,
            max_prompt_tokens=sys.maxsize,
            limit=arguments.limit,
            verifier=verifier,
            known=sources.source_of_file(name),
            any_count=arguments.allow_count,
        )
        loaded[name] = found.problems
        notes += found.notes
    if not loaded:
        raise UserError("--benchmarks names no benchmark")
    return loaded, notes


if __name__ == "__main__":
    sys.exit(main())
