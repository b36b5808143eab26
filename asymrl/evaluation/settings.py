"""How a model is evaluated: prompt, sampling, stop tokens, verifier, and differences to training.

Knows checkpoints, configs and tokenizers; no engine and no samples.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asymrl import verifiers
from asymrl.by_path import is_by_path, without_digest
from asymrl.config import schema
from asymrl.config.load import load_config
from asymrl.data.problems import problems_digest
from asymrl.data.readers import Fields
from asymrl.data.reasoning_gym import GymSettings
from asymrl.engines import model_folder, pretrained
from asymrl.errors import UserError
from asymrl.evaluation import results_folder
from asymrl.evaluation.evaluate import EvalTask
from asymrl.run import checkpoint
from asymrl.types import Sampling, frozen

BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
DEFAULT_PROMPT = {"system": None, "user": BOXED, "template_kwargs": {"enable_thinking": False}}
DEFAULT_MAX_TOKENS = 4096
DEFAULT_PROMPT_NOTE = (
    "{path} has no asymrl.json, so the default prompt is used: reason step by step and put the "
    "answer in a box; --config NAME uses the prompt of that config"
)


@frozen
class EvaluatedModel:
    """A model and how it is prompted, sampled and verified.

    name: of the default output folder. max_tokens: None if neither checkpoint nor config sets it.
    fields: the columns of its data. gym: which problems of reasoning-gym. limit: eval.limit of the
    config; None: all problems.
    training_sampling: the sampling of the evaluations during training; may be empty. which: the
    rule that selected this checkpoint of its run, in words; None for other models. notes: for the
    user.
    """

    model: schema.ModelConfig
    folder: Path
    name: str
    tokenizer: Any
    prompt: Mapping[str, Any]
    stop_ids: tuple[int, ...]
    max_tokens: int | None
    fields: Fields
    gym: GymSettings
    limit: int | None
    training_sampling: Mapping[str, Any]
    verifier: Mapping[str, Any]
    which: str | None
    notes: Sequence[str]


def resolve_checkpoint(ckpt: str) -> str:
    """The real path of a local model folder, since `latest` may move during the evaluation. A hub
    id is returned unchanged. UserError for a folder without a model, such as a run folder."""
    if not os.path.isdir(ckpt):
        return ckpt
    model_folder.check_is_model(ckpt)
    return str(Path(ckpt).resolve())


def find_model(ckpt: str | None, config_name: str | None) -> EvaluatedModel:
    """The settings of a config's untrained model, or of a checkpoint (its asymrl.json), or the
    defaults for any other model. UserError if its chat template is missing or has changed."""
    config = load_config(config_name) if config_name else None
    model = config.model if config else schema.ModelConfig(path=ckpt or "")
    folder = Path(pretrained.locate(model.path)).resolve()
    tokenizer = pretrained.load_tokenizer(model, config.data.chat_template if config else None)
    definitions = checkpoint.read_definitions(folder)
    which = definitions.which if definitions else None
    notes = [f"which checkpoint: {which}"] if which else []
    training_sampling: dict[str, Any] = {}
    gym: dict[str, Any] = {}
    if config:
        prompt, verifier = config.data.prompt, config.verifier
        stop_ids = pretrained.stop_ids(model, tokenizer, config.rollout.stop)
        max_tokens = config.rollout.max_tokens
        names = config.data.problem_field, config.data.answer_field
        gym = config.data.gym
    elif definitions:
        prompt = definitions.prompt.model_dump()
        verifier, changed = current_verifier(definitions.verifier, folder)
        notes += changed
        training_sampling = definitions.sampling.model_dump()
        stop_ids = tuple(training_sampling.pop("stop_ids"))
        max_tokens = training_sampling.get("max_tokens")
        names = definitions.columns.problem, definitions.columns.answer
        gym = definitions.reasoning_gym.model_dump() if definitions.reasoning_gym else {}
    else:
        prompt, verifier = DEFAULT_PROMPT, schema.VerifierConfig()
        stop_ids = pretrained.stop_ids(model, tokenizer, ())
        max_tokens, names = None, (None, None)
        notes.append(DEFAULT_PROMPT_NOTE.format(path=model.path))
    if not prompt.get("raw"):
        check_chat_template(model.path, folder, tokenizer, definitions)
    if prompt is not DEFAULT_PROMPT:
        notes += [
            f"template_kwargs.{key} has no effect: the chat template does not use it"
            for key in prompt["template_kwargs"]
            if key not in str(tokenizer.chat_template)
        ]
    return EvaluatedModel(
        model=model,
        folder=folder,
        name=Path(config_name).name.removesuffix(".yaml") if config_name else folder_name(folder),
        tokenizer=tokenizer,
        prompt=prompt,
        stop_ids=stop_ids,
        max_tokens=max_tokens,
        fields=Fields(problem=names[0], answer=names[1], if_there=True),
        gym=GymSettings(**gym),
        limit=config.eval.limit if config else None,
        training_sampling=training_sampling,
        verifier=verifier.model_dump(),
        which=which,
        notes=notes,
    )


def current_verifier(
    verifier: schema.VerifierConfig, folder: Path
) -> tuple[schema.VerifierConfig, list[str]]:
    """The verifier of a checkpoint. A function by path is used with the current content of its
    file; a note says if that has changed since training.

    UserError if the file is missing, or is part of the checkpoint or its run: code that comes with
    a model is not run.
    """
    if not is_by_path(verifier.name):
        return verifier, []
    name, where = without_digest(verifier.name), f"{folder / 'asymrl.json'}: verifier.name"
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    if Path(name.rpartition(":")[0]).resolve().is_relative_to(run):
        raise UserError(
            f"{where} = {name} is inside the folder of the model, whose code is not run; if you "
            "trust it, copy the file out and edit the name"
        )
    try:
        own = verifiers.own.load(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    changed = [f"{own.path} has changed since training; responses are verified with the new file"]
    current = verifier.model_copy(update={"name": own.name})
    return current, changed if current != verifier else []


def check_chat_template(
    path: str, folder: Path, tokenizer: Any, definitions: checkpoint.Definitions | None
) -> None:
    if not tokenizer.chat_template:
        prompt = "the prompt definition in asymrl.json" if definitions else "the prompt"
        raise UserError(
            f"{path}: the tokenizer has no chat template, which {prompt} requires; use a "
            "model folder with chat_template.jinja"
        )
    digest = definitions.chat_template if definitions else None
    if digest is not None and digest != pretrained.template_digest(tokenizer):
        raise UserError(
            f"{folder}: the chat template differs from the one used in training (asymrl.json); "
            "restore the chat_template.jinja that the checkpoint was saved with"
        )


def folder_name(folder: Path) -> str:
    """NAME-step-N for runs/NAME/checkpoints/step-N, so that two runs get two output folders."""
    if folder.parent.name == "checkpoints":
        return f"{folder.parent.parent.name}-{folder.name}"
    return folder.name


def sampling(
    model: EvaluatedModel, longest_prompt: int, temperature: float, max_tokens: int | None
) -> tuple[Sampling, list[str]]:
    """The sampling, and notes on what differs from training or was reduced to fit the model.

    longest_prompt: in tokens. Prompt and response must fit into the model's positions: a default
    max_tokens is reduced, a chosen one raises UserError.
    """
    positions, notes = pretrained.positions(model.model), []
    chosen = max_tokens or model.max_tokens
    limit = chosen or DEFAULT_MAX_TOKENS
    if positions is not None and longest_prompt + limit > positions:
        if longest_prompt >= positions:
            raise UserError(
                f"the longest prompt has {longest_prompt} tokens, but {model.model.path} has only "
                f"{positions} positions for prompt and response; use benchmarks with shorter "
                "problems"
            )
        if chosen:
            raise UserError(
                f"the longest prompt ({longest_prompt} tokens) with --max-tokens {limit} needs "
                f"{longest_prompt + limit} positions, but {model.model.path} has {positions}; use "
                f"--max-tokens {positions - longest_prompt} or less"
            )
        limit = positions - longest_prompt
        notes.append(f"max_tokens is reduced to {limit}: the model has {positions} positions")
    sampling = Sampling(
        temperature=temperature, top_p=1.0, top_k=0, max_tokens=limit, stop_ids=model.stop_ids
    )
    changes = [
        f"{key} {getattr(sampling, key):g} (training: {value:g})"
        for key, value in model.training_sampling.items()
        if key != "temperature" and getattr(sampling, key) != value
    ]
    if changes:
        notes.append(f"sampling differs from the evaluations during training: {', '.join(changes)}")
    return sampling, notes


def eval_settings(model: EvaluatedModel, task: EvalTask, engine: str, chunk: int) -> dict[str, Any]:
    """Everything that the samples depend on: the content of settings.json.

    chunk: samples of all processes between two saves; vLLM's tokens depend on it.
    """
    path, revision = model.model.path, model.model.revision
    return {
        "checkpoint": path,
        "which": model.which,
        "weights": results_folder.weights_digest(model.folder) or f"{path}@{revision}",
        "engine": engine,
        **({"chunk": chunk} if engine == "vllm" else {}),
        "dtype": str(pretrained.default_dtype()).removeprefix("torch."),
        "prompt": dict(model.prompt),
        "sampling": asdict(task.sampling) | {"stop_ids": list(task.sampling.stop_ids)},
        "verifier": {key: v for key, v in model.verifier.items() if key != "workers"},
        "seed": task.seed,
        "benchmarks": {
            name: {
                "source": problems[0].source,
                "problems": len(problems),
                "samples": task.samples[name],
                "digest": problems_digest(problems),
            }
            for name, problems in task.benchmarks.items()
        },
    }
