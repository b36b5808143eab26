"""How a model is asked in an evaluation: prompt, sampling, stop tokens, verifier, and what of that
is not as in its training.

Knows checkpoints, configs and tokenizers; nothing of engines or of samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asymrl.config import schema
from asymrl.config.load import load_config
from asymrl.engines import pretrained
from asymrl.errors import UserError
from asymrl.evaluation import results_folder
from asymrl.run import checkpoint
from asymrl.types import Problem, Sampling, frozen

BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
PLAIN_PROMPT = {"system": None, "user": BOXED, "template_kwargs": {"enable_thinking": False}}
PLAIN_TOKENS = 4096
MODEL_JSON = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
NOT_DEFINED = (
    "{path} has no asymrl.json, so it is asked in the usual way: step by step, with a box for the "
    "answer; --config NAME asks as that config does"
)


@frozen
class EvaluatedModel:
    """Who is asked, and how. max_tokens None: nothing is said of it. name: of the folder.

    which: the rule by which a run's checkpoint was chosen, in words, where it is one.
    """

    model: Any
    where: Path
    name: str
    tokenizer: Any
    prompt: Mapping[str, Any]
    stop_ids: tuple[int, ...]
    max_tokens: int | None
    trained: Mapping[str, Any]  # how it was sampled in training's evaluations; may be empty
    verifier: Mapping[str, Any]
    which: str | None
    notes: Sequence[str]


def resolve_checkpoint(ckpt: str) -> str:
    """A local folder by its own name, now: `latest` may name another one while this one is read.
    A hub id stays. UserError for a folder without a model, such as a run's."""
    if not os.path.isdir(ckpt):
        return ckpt
    folder = Path(ckpt).resolve()
    if (folder / "config.json").exists():
        return str(folder)
    for inside in ("checkpoints/latest", "latest"):
        if (folder / inside).is_dir():
            raise UserError(f"{ckpt} holds a run, and no model itself; valid is {ckpt}/{inside}")
    raise UserError(f"{ckpt} is no model folder: config.json is missing")


def find_model(ckpt: str | None, config_name: str | None) -> EvaluatedModel:
    """By asymrl.json of a checkpoint, by the config of an untrained model, by default otherwise."""
    config = load_config(config_name) if config_name else None
    model = config.model if config else schema.ModelConfig(path=ckpt or "")
    where = Path(pretrained.locate(model.path)).resolve()
    check_json_files(where)
    tokenizer = pretrained.load_tokenizer(model)
    defined = checkpoint.read_definitions(where)
    prompt = defined.prompt.model_dump() if defined else PLAIN_PROMPT
    verifier = (defined.verifier if defined else schema.VerifierConfig()).model_dump()
    drawn = defined.sampling.model_dump() if defined else {}
    stop_ids = (
        tuple(drawn.pop("stop_ids")) if defined else pretrained.stop_ids(model, tokenizer, ())
    )
    max_tokens = drawn.get("max_tokens")
    if config:
        prompt, verifier = config.data.prompt, config.verifier.model_dump()
        stop_ids = pretrained.stop_ids(model, tokenizer, config.rollout.stop)
        max_tokens = config.rollout.max_tokens
        drawn = {}
    if not tokenizer.chat_template:
        raise UserError(
            f"{model.path}: its tokenizer has no chat template, and "
            f"{'its prompt definition (asymrl.json)' if defined else 'the prompt'} is rendered "
            "with one; valid is a model folder with chat_template.jinja"
        )
    if defined and defined.chat_template not in (None, pretrained.template_digest(tokenizer)):
        raise UserError(
            f"{where}: its chat template is not the one that it was trained with, by asymrl.json; "
            "valid is the chat_template.jinja that the checkpoint was saved with"
        )
    unknown = [
        f"{key} is not in the tokenizer's chat template, and so says nothing to it"
        for key in prompt["template_kwargs"]
        if key not in str(tokenizer.chat_template) and prompt is not PLAIN_PROMPT
    ]
    return EvaluatedModel(
        model=model,
        where=where,
        name=Path(config_name).name.removesuffix(".yaml") if config_name else name_of(where),
        tokenizer=tokenizer,
        prompt=prompt,
        stop_ids=stop_ids,
        max_tokens=max_tokens,
        trained=drawn,
        verifier=verifier,
        which=defined.which if defined else None,
        notes=[
            *([f"which checkpoint: {defined.which}"] if defined and defined.which else []),
            *([] if defined or config else [NOT_DEFINED.format(path=model.path)]),
            *unknown,
        ],
    )


def check_json_files(folder: Path) -> None:
    """UserError where a model folder's JSON is none: libraries meet it with errors of any kind."""
    for name in MODEL_JSON:
        file = folder / name
        try:
            known = json.loads(file.read_bytes()) if file.is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} is damaged and cannot be read: {error}") from None
        if not isinstance(known, dict):
            raise UserError(f"{file} is damaged: it holds no object")


def name_of(checkpoint: Path) -> str:
    """runs/NAME/checkpoints/step-N is NAME-step-N, so that two runs do not meet."""
    if checkpoint.parent.name == "checkpoints":
        return f"{checkpoint.parent.parent.name}-{checkpoint.name}"
    return checkpoint.name


def sampling(
    asked: EvaluatedModel, longest: int, temperature: float, max_tokens: int | None
) -> tuple[Sampling, list[str]]:
    """The sampling, and notes: what is not as in training, and where a default was cut to the
    model's positions. longest: tokens of the longest prompt; UserError where it does not fit."""
    most, notes = pretrained.positions(asked.model), []
    wanted = max_tokens or asked.max_tokens or PLAIN_TOKENS
    if most is not None and longest + wanted > most:
        if longest >= most:
            raise UserError(
                f"the longest prompt has {longest} tokens, and {asked.model.path} has positions "
                f"for {most}, its response among them; valid are benchmarks with shorter problems"
            )
        if max_tokens or asked.max_tokens:
            raise UserError(
                f"the longest prompt ({longest} tokens) with --max-tokens {wanted} needs "
                f"{longest + wanted} tokens, and {asked.model.path} has positions for {most}; "
                f"valid is --max-tokens {most - longest} or less"
            )
        wanted = most - longest
        notes.append(f"responses of at most {wanted} tokens: the model has positions for {most}")
    how = Sampling(
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        max_tokens=wanted,
        stop_ids=asked.stop_ids,
    )
    changed = [
        f"{key} {getattr(how, key):g} (there {there:g})"
        for key, there in asked.trained.items()
        if getattr(how, key) != there
    ]
    if changed:
        notes.append(f"not as in the training's own evaluations: {', '.join(changed)}")
    return how, notes


def eval_settings(
    asked: EvaluatedModel,
    benchmarks: Mapping[str, Sequence[Problem]],
    counts: Mapping[str, int],
    sampling: Sampling,
    seed: int,
    engine: str,
    chunk: int,
) -> dict[str, Any]:
    """What the samples depend on: settings.json, as JSON has it. counts: samples a problem; chunk:
    samples of all processes between two saves, on which vLLM's depend."""
    verifier = {k: v for k, v in asked.verifier.items() if k != "workers"}
    return {
        "checkpoint": asked.model.path,
        "which": asked.which,
        "weights": results_folder.weights(asked.where)
        or f"{asked.model.path}@{asked.model.revision}",
        "engine": engine,
        **({"chunk": chunk} if engine == "vllm" else {}),
        "dtype": str(pretrained.default_dtype()).removeprefix("torch."),
        "prompt": dict(asked.prompt),
        "sampling": asdict(sampling) | {"stop_ids": list(sampling.stop_ids)},
        "verifier": verifier,
        "seed": seed,
        "benchmarks": {
            name: {
                "source": problems[0].source,
                "problems": len(problems),
                "samples": counts[name],
                "digest": results_folder.digest(problems),
            }
            for name, problems in benchmarks.items()
        },
    }
