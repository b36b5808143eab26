"""Runs an evaluation from start to end: model, problems, engine, samples, table.

eval.py is its command line, `asymrl.evaluate` its function.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from asymrl import pocket, verifiers
from asymrl.by_path import is_by_path
from asymrl.config.schema import DeadlinesConfig
from asymrl.data.problems import ProblemLoader, try_verifier
from asymrl.data.readers import Fields, short_names
from asymrl.data.sources import Subset, locate_benchmark, source_of_file
from asymrl.engines import build, pretrained
from asymrl.engines.distributed import World, from_environment, join
from asymrl.engines.rollout import RolloutEngine
from asymrl.errors import UserError
from asymrl.evaluation import results_folder, settings
from asymrl.evaluation.evaluate import EvalTask, Resumable, evaluate, results_table
from asymrl.evaluation.options import EvalOptions
from asymrl.evaluation.scores import Scores
from asymrl.evaluation.settings import EvaluatedModel
from asymrl.files import locked
from asymrl.run.folder import check_shared
from asymrl.run.tracking import progress_bar
from asymrl.run.watchdog import Watchdog
from asymrl.types import Problem
from asymrl.verifiers import Verifier

LARGE_BENCHMARKS = ("math500", "olympiadbench")
MAX_ROWS = 512  # sequences that an engine samples at a time
HF_TOKENS = 2**18  # in the cache of hf at a time: 40 GB for Qwen3-4B
VLLM_MEMORY = 0.85  # share of the GPU; the rest is for the check of the weights


def run_evaluation(options: EvalOptions) -> list[Scores]:
    """Evaluate a model on benchmarks, print the table, return the scores. Resumes in its folder.

    options: checked (options.build_options).
    """
    world, deadlines = from_environment(), DeadlinesConfig()
    machine = build.detect_machine(world)
    engine_name, reason = build.choose_engine(options.engine, machine, "--engine")
    print(f"samples: {engine_name} ({reason}){build.describe_processes(machine)}", flush=True)
    pretrained.set_threads(options.threads)
    width = None if sys.stdout.isatty() else 120  # a whole table in a log or a notebook
    console = Console(width=width, force_jupyter=False)
    with ExitStack() as stack:
        if world.size > 1:
            join(world, deadlines.load)
        watchdog = stack.enter_context(Watchdog(world, deadlines.model_dump(), Path()))
        model = agree_on_model(options.ckpt, options.config, world)
        verifier = stack.enter_context(verifiers.make(**model.verifier))
        with world.rank_zero_first():
            benchmarks, data_notes = load_benchmarks(options, model, verifier)
        longest_prompt = max(len(p.prompt_ids) for part in benchmarks.values() for p in part)
        sampling, sampling_notes = settings.sampling(
            model, longest_prompt, options.temperature, options.max_tokens
        )
        if world.first:
            for note in [*model.notes, *data_notes, *sampling_notes]:
                print(f"note: {note}", file=sys.stderr, flush=True)
        folder = options.output or Path("runs") / "eval" / model.name
        if world.nodes > 1:
            check_shared(folder, world, "--output")
        with world.rank_zero_first():
            if world.first:
                results_folder.check_output(folder, [*benchmarks])
                refused = f"--output {folder} cannot be created as a folder"
                busy = f"another process is evaluating into {folder}"
                stack.enter_context(locked(folder, refused=refused, busy=busy))
        watchdog.folder = folder
        show = stack.enter_context(progress_bar("evaluate", "responses", console))

        def progress(done: int, total: int) -> None:
            watchdog.phase("evaluate", done, total)
            show(done, total)

        task = EvalTask(
            benchmarks=benchmarks,
            samples={name: samples_per_problem(options.avg_at, name) for name in benchmarks},
            sampling=sampling,
            seed=options.seed,
        )
        max_model_len, chunk = longest_prompt + sampling.max_tokens, options.chunk * world.size
        results = evaluate(
            task,
            partial(eval_engine, engine_name, model, world, max_model_len),
            verifier,
            world,
            folder,
            progress=progress,
            resumable=Resumable(
                settings=settings.eval_settings(model, task, engine_name, chunk),
                chunk=chunk,
                replace=options.replace,
            ),
        )
    console.print(results_table(results))
    print(f"every sample, and summary.json: {folder}")
    return results


def agree_on_model(ckpt: str | None, config: str | None, world: World) -> EvaluatedModel:
    """The same model on every rank: rank 0 resolves `latest`, which may change meanwhile."""
    folder = ckpt and world.from_rank_zero(partial(settings.resolve_checkpoint, ckpt))
    with world.rank_zero_first():  # rank 0 downloads, the others read its cache
        return settings.find_model(folder, config)


def eval_engine(
    name: str, model: EvaluatedModel, world: World, max_model_len: int
) -> RolloutEngine:
    """The engine with the model's weights, in bf16 on a GPU."""
    rows = min(MAX_ROWS, max(1, HF_TOKENS // max_model_len)) if name == "hf" else MAX_ROWS
    engine = build.build_engine(
        name,
        model.model,
        model.tokenizer,
        world=world,
        dtype=pretrained.default_dtype(),
        max_rows=rows,
        vllm=build.VLLMSettings(max_model_len=max_model_len, gpu_memory_utilization=VLLM_MEMORY),
    )
    if name != "hf":
        build.load_pretrained_weights(engine, model.model)
    return engine


def load_benchmarks(
    options: EvalOptions, model: EvaluatedModel, verifier: Verifier
) -> tuple[Mapping[str, Sequence[Problem]], list[str]]:
    """The problems of each benchmark by its short name, and notes for the user."""
    names = [name.strip() for name in options.benchmarks.split(",") if name.strip()]
    if not names:
        raise UserError("--benchmarks names no benchmark")
    if "mean" in short_names(names):
        raise UserError('--benchmarks mean: "mean" is reserved for the mean over benchmarks')
    sources = [locate_benchmark(name, options.data_dir, [*pocket.DATA]) for name in names]
    given = Fields(
        problem=options.problem_field or model.fields.problem,
        answer=options.answer_field or model.fields.answer,
        if_there=not (options.problem_field or options.answer_field),
    )
    loader = ProblemLoader(
        tokenizer=model.tokenizer,
        verifier=verifier,
        prompt=model.prompt,
        max_prompt_tokens=sys.maxsize,
        fields=given,
        own_verifier=is_by_path(model.verifier["name"]),
        gym=model.gym,
    )
    subset = Subset(config=options.data_config, split=options.data_split)
    benchmarks: dict[str, Any] = {}
    limit, notes = options.limit, []
    if limit is None and (limit := model.limit):
        notes.append(
            f"eval.limit = {limit} of the config applies: the first problems of each benchmark; "
            "--limit N takes another number"
        )
    for name, source in zip(short_names(names), sources, strict=True):
        known = source_of_file(name) if os.path.isfile(source) else None
        loaded = loader.load(
            source,
            limit=limit,
            known=known,
            any_count=options.allow_count,
            subset=subset,
            heldout=True,
        )
        benchmarks[name] = loaded.problems
        if is_by_path(model.verifier["name"]):
            try_verifier(verifier, loaded.problems[0])
        notes += loaded.notes
    return benchmarks, notes


def samples_per_problem(avg_at: int | str, benchmark: str) -> int:
    """avg_at, or the paper's protocol: 5 on two large benchmarks, else 10 (arXiv 2604.04894,
    Appendix H)."""
    if isinstance(avg_at, int):
        return avg_at
    assert avg_at == "paper", avg_at
    return 5 if source_of_file(benchmark) in LARGE_BENCHMARKS else 10
