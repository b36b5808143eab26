"""What real.py measures: SmolLM2-135M on the first graded sums, with the settings of its config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import subject

from asymrl import verifiers
from asymrl.config.load import load_config
from asymrl.config.schema import Config
from asymrl.data.problems import ProblemLoader
from asymrl.data.readers import Fields
from asymrl.data.sources import Subset
from asymrl.engines import pretrained
from asymrl.training.setup import training_sampling
from asymrl.types import Problem, Sampling

LONG = 96  # new tokens
NEVER = 10**9
LEAN = (  # no evaluation, no checkpoints, no other extra work
    f"optim.lr={subject.LR}",
    f"rollout.sync_check_every={NEVER}",
    f"eval.every={NEVER}",
    f"checkpoint.every={NEVER}",
    f"tracking.rollouts_every={NEVER}",
    "tracking.logprob_gain_every=0",
    "optim.weight_decay=0.0",
    "optim.betas=[0.9,0.999]",
    f"steps={NEVER}",
)


def config(long: bool) -> Config:
    """configs/smollm2_135m.yaml, lean."""
    overrides = [*LEAN, *([f"rollout.max_tokens={LONG}"] if long else [])]
    return load_config("smollm2_135m_grpo", overrides)


def folder(config: Config) -> Path:
    return Path(pretrained.locate(config.model.path))


def tokenizer(config: Config) -> Any:
    return pretrained.load_tokenizer(config.model, config.data.chat_template)


def problems(config: Config) -> list[Problem]:
    """The first problems of the training set, as many as a rollout batch has prompts."""
    with verifiers.make(**config.verifier.model_dump()) as verifier:
        loader = ProblemLoader(
            tokenizer=tokenizer(config),
            prompt=config.data.prompt,
            max_prompt_tokens=config.data.max_prompt_tokens,
            fields=Fields(problem=None, answer=None),
            verifier=verifier,
            reject_unparseable=True,
            own_verifier=False,
        )
        loaded = loader.load(config.data.train, limit=config.rollout.prompts, subset=Subset())
    return list(loaded.problems)


def stop_ids(config: Config) -> list[int]:
    """The tokens that end a response; for `long`, one that the model never samples."""
    if config.rollout.max_tokens == LONG:
        return [int(tokenizer(config).convert_tokens_to_ids("<reponame>"))]
    return list(pretrained.stop_ids(config.model, tokenizer(config), config.rollout.stop))


def sampling(config: Config) -> Sampling:
    made = training_sampling(config, tokenizer(config))
    return replace(made, stop_ids=tuple(stop_ids(config)))
