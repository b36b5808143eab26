"""The subject of the benchmarks: a small Qwen3, its prompts, and the settings of a step.

The model has 0.8M parameters, and more embeddings with the large vocabulary. Its weights fix the
distribution of response lengths: the stop token has the same probability in every state, so
lengths are geometric with a mean of 36 and a maximum of 48 tokens, whichever program samples. A
learning rate of 1e-7 does not change that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from turns import RESULTS

from asymrl import verifiers
from asymrl.algo.batch import engine_values, tokenise
from asymrl.config.schema import Config, OptimConfig, PolicyConfig
from asymrl.data.problems import sample_prompts
from asymrl.engines.distributed import World
from asymrl.engines.gpu_memory import MemoryMeter
from asymrl.engines.hf import HFEngine
from asymrl.engines.local import LocalPolicy
from asymrl.engines.policy import Policy
from asymrl.engines.rollout import RolloutEngine
from asymrl.run.tracking import Tracker
from asymrl.training import loop
from asymrl.training.algorithm import build_algorithm
from asymrl.training.rollout import build_experience, generate_and_verify
from asymrl.types import (
    Batch,
    Experience,
    LossFn,
    Position,
    Problem,
    Request,
    Rollout,
    Sampling,
    Verdict,
)

PROMPTS, SAMPLES, MAX_TOKENS = 32, 8, 48
UPDATES = 4  # optimizer steps per rollout batch
STOP_PROBABILITY = 0.0128  # per token: (1 - (1-p)^48) / p = 36 tokens
SMALL, LARGE = 327, 151_936  # vocabulary sizes: the pocket model's and Qwen3's
STOP, PAD = 0, 1
LR = 1e-7
OPTIMIZER: dict[str, Any] = {
    "temperature": 1.0,
    "optim": OptimConfig(lr=LR, betas=[0.9, 0.999], weight_decay=0.0, minibatch_prompts=1),
}


def folder(vocabulary: int) -> Path:
    """A Hugging Face folder with model and tokenizer, created on first use."""
    path = RESULTS / f"model-{vocabulary}"
    if not (path / "tokenizer.json").is_file():
        make_model(vocabulary).save_pretrained(path)
        make_tokenizer(vocabulary).save_pretrained(path)
    return path


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = {"<stop>": STOP, "<pad>": PAD} | {f"w{n}": n for n in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<stop>", pad_token="<pad>", padding_side="left"
    )


def make_config(
    vocabulary: int, *, layers: int = 4, hidden: int = 128, intermediate: int = 320, heads: int = 4
) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=STOP,
        pad_token_id=PAD,
        dtype=torch.float32,
    )


@torch.no_grad()
def make_model(vocabulary: int) -> Qwen3ForCausalLM:
    """Random weights, except that all embeddings share one component.

    The stop token's row of the head is longer along it, such that the token has STOP_PROBABILITY.
    """
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(make_config(vocabulary)).eval()
    head = model.lm_head.weight
    head[:, 0] = 1.0
    ids = torch.randint(2, vocabulary, (8, 32))
    hidden = model.model(input_ids=ids).last_hidden_state.flatten(0, 1)
    others = (hidden @ head[1:].T).logsumexp(-1)
    stop_logit = math.log(STOP_PROBABILITY / (1 - STOP_PROBABILITY)) + others
    head[STOP, 0] += ((stop_logit - hidden @ head[STOP]) / hidden[:, 0]).mean()
    return model


def prompts() -> list[str]:
    """PROMPTS texts of 8 to 15 tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = [8 + n % 8 for n in range(PROMPTS)]
    return [
        " ".join(f"w{w}" for w in torch.randint(2, SMALL, (n,), generator=generator).tolist())
        for n in lengths
    ]


def problems(tokenizer: Any) -> list[Problem]:
    return [
        Problem(
            id=str(n),
            prompt_ids=tuple(tokenizer(text)["input_ids"]),
            prompt_text=text,
            gold="1",
            source="bench",
        )
        for n, text in enumerate(prompts())
    ]


def reward(prompt: int, sample: int, share: float) -> float:
    """The reward of a sample, by the numbers of its prompt and of itself.

    The first `share` of every 4 prompts have mixed groups, half correct; other groups are all
    correct or all wrong.
    """
    if prompt % 4 < 4 * share:
        return float(sample % 2)
    return float(prompt // 4 % 2)


def verdict(prompt: int, sample: int, share: float) -> Verdict:
    correct = reward(prompt, sample, share) == 1
    return Verdict(reason="correct" if correct else "wrong", answer=None, seconds=0.0)


def config(steps: int, path: Path, **rollout: Any) -> Config:
    """Like configs/pocket.yaml with other sizes; no evaluation, no checkpoints, no logprob_gain."""
    never = 10**9
    sizes = {"prompts": PROMPTS, "group_size": SAMPLES, "max_tokens": MAX_TOKENS}
    return Config.model_validate(
        {
            "model": {"path": str(path)},
            "data": {"train": "bench.jsonl"},
            "rollout": {**sizes, "sync_check_every": never, **rollout},
            "verifier": {"name": "exact"},
            "advantage": {"name": "asym", "beta_pos": 0.5, "beta_neg": 0.5},
            "optim": {
                "lr": LR,
                "minibatch_prompts": rollout.get("prompts", PROMPTS) // UPDATES,
                "betas": [0.9, 0.999],
                "weight_decay": 0.0,
            },
            "eval": {"every": never},
            "checkpoint": {"every": never},
            "tracking": {"rollouts_every": never, "logprob_gain_every": 0},
            "steps": steps,
        }
    )


def sampling(max_tokens: int = MAX_TOKENS) -> Sampling:
    return Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=max_tokens, stop_ids=(STOP,))


def engine(path: Path, tokenizer: Any, rows: int = 512) -> HFEngine:
    return HFEngine(Qwen3ForCausalLM.from_pretrained(path), tokenizer.decode, rows)


def policy(path: Path, token_budget: int = 16384) -> LocalPolicy:
    """The local policy as train.py builds it."""
    model = Qwen3ForCausalLM.from_pretrained(path)
    return LocalPolicy(model, settings=PolicyConfig(token_budget=token_budget), **OPTIMIZER)


def requests(cfg: Config, asked: Sequence[Problem], step: int = 1) -> list[Request]:
    """The requests of the loop at a step, with draws numbered from 0."""
    rollout = cfg.rollout
    return sample_prompts(
        asked, rollout.prompts, samples=rollout.group_size, first_draw=0, seed=cfg.seed, step=step
    )


def generated(engine: HFEngine, asked: Sequence[Request], how: Sampling) -> list[Rollout]:
    return sorted(engine.generate(asked, how), key=lambda r: (r.draw, r.sample))


def experience(
    cfg: Config, asked: Sequence[Request], rollouts: Sequence[Rollout], share: float
) -> Experience:
    """A rollout batch as the loop builds it, `share` of its groups mixed."""
    algorithm = build_algorithm(cfg, [request.problem for request in asked])
    tokens, scored = tokenise(asked, rollouts), engine_values(rollouts)
    return build_experience(
        asked,
        rollouts,
        [verdict(r.draw, r.sample, share) for r in rollouts],
        tokens=tokens,
        scored=scored,
        truncation="score",
        algorithm=algorithm,
        schedule=algorithm.init_schedule,
    )


def cut(
    cfg: Config, asked: Sequence[Request], rollouts: Sequence[Rollout], share: float
) -> tuple[list[Batch], LossFn]:
    """The step's mini-batches and its loss, as the loop makes them, `share` of the groups mixed."""
    algorithm = build_algorithm(cfg, [request.problem for request in asked])
    batch = experience(cfg, asked, rollouts, share)
    token_advantages = algorithm.to_token_advantages(batch)
    return algorithm.to_minibatches(batch, token_advantages, algorithm.init_schedule)


def train(
    cfg: Config,
    path: Path,
    *,
    engine: RolloutEngine,
    policy: Policy,
    tracker: Tracker,
    share: Callable[[], float],
    seen: Callable[[Sequence[Request], list[Rollout]], object] = lambda asked, rollouts: None,
    asked_problems: Sequence[Problem] = (),
    how: Sampling | None = None,
) -> None:
    """The training loop with rewards fixed by position; share() is the share of mixed groups.

    `seen` is called with each rollout batch. asked_problems, how: by default the subject's own.
    """
    asked_problems = asked_problems or problems(AutoTokenizer.from_pretrained(path))
    how = how or sampling()
    with verifiers.make("exact") as verifier:

        def generate(
            asked: Sequence[Request], *progress: Any
        ) -> tuple[list[Rollout], list[Verdict]]:
            given = {"engine": engine, "verifier": verifier, "world": World()}
            rollouts, _ = generate_and_verify(asked, *progress, sampling=how, **given)
            seen(asked, rollouts)
            return rollouts, [verdict(r.draw, r.sample, share()) for r in rollouts]

        callbacks = loop.Callbacks(
            evaluate=lambda step: {},
            save=lambda position: None,
            stop=lambda metrics: None,
            tracker=tracker,
            memory=MemoryMeter(World(), {}),
        )
        loop.train(
            cfg,
            problems=asked_problems,
            engine=engine,
            policy=policy,
            generate=generate,
            callbacks=callbacks,
            start=Position(),
        )
