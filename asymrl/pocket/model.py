"""The pocket model and its warm start: a small Qwen3, taught by demonstrations.

It knows the recipe and the task; it knows no data files, no folders and no reward.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from asymrl.pocket.task import END, Numbers, Style, demonstration, question
from asymrl.pocket.tokenizer import ASSISTANT, PAD, USER
from asymrl.types import frozen

MAX_LENGTH = 8192
Progress = Callable[[int, int, str], None]
"""Called with (steps done, of how many, what is being done)."""


@frozen
class Recipe:
    """Everything that the pocket folder depends on, beside the seed.

    version goes up when the code changes what a recipe makes, so that kept folders are made anew.

    The first `easy_share` of the steps is the curriculum that makes it learn: only the shortest
    two lengths, no bad habits, batches twice as large. lr falls linearly over the last `decay`.
    weights: how often each length comes, n = 2, 3, ...; skip, wrong, reuse: see `Style`.
    train_easy, train_hard, heldout: (n, rows) pairs; probes: samples a length for `accuracy`.
    """

    version: int = 1
    hidden: int = 96
    layers: int = 2
    heads: int = 3
    head_dim: int = 32
    feed_forward: int = 256
    steps: int = 450
    batch: int = 72
    lr: float = 5e-3
    warmup: int = 50
    decay: float = 0.4
    easy_share: float = 0.25
    weights: tuple[int, ...] = (10, 20, 25, 24, 14, 7)
    skip: float = 0.2
    wrong: float = 0.02
    reuse: float = 0.02
    heldout_share: float = 0.2
    probes: int = 256
    train_easy: tuple[tuple[int, int], ...] = (
        (2, 500),
        (3, 600),
        (4, 400),
        (5, 250),
        (6, 150),
        (7, 100),
    )
    train_hard: tuple[tuple[int, int], ...] = ((4, 600), (5, 600), (6, 600), (7, 600))
    heldout: tuple[tuple[int, int], ...] = ((3, 64), (4, 64), (5, 64), (6, 64), (7, 64))


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """An untrained fp32 Qwen3 with tied embeddings, a function of the recipe and the seed."""
    ids = tokenizer.get_vocab()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=recipe.hidden**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def _batch(
    ids: Mapping[str, int], sets: Sequence[Numbers], style: Style, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Demonstrations as (tokens, targets), each (rows, T); a target of -100 is not learned."""
    tokens, targets = [], []
    for numbers in sets:
        ordered = rng.sample(numbers, len(numbers))
        prompt = [ids[USER], *(ids[p] for p in question(ordered)), ids[ASSISTANT]]
        response = [ids[p] for p in demonstration(ordered, style, rng)]
        tokens.append(prompt + response)
        targets.append([-100] * (len(prompt) - 1) + response)
    longest = max(map(len, tokens))
    pad = ids[PAD]
    inputs = [row[:-1] + [pad] * (longest - len(row)) for row in tokens]
    labels = [row + [-100] * (longest - 1 - len(row)) for row in targets]
    return torch.tensor(inputs), torch.tensor(labels)


def warm_start(
    model: Qwen3ForCausalLM,
    ids: Mapping[str, int],
    train_sets: Mapping[int, Sequence[Numbers]],
    recipe: Recipe,
    seed: int,
) -> Iterator[float]:
    """Train `model` in place on demonstrations, yielding the loss of each step."""
    rng = random.Random(f"demonstrations/{seed}")
    optim = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0)
    style = Style(skip=recipe.skip, wrong=recipe.wrong, reuse=recipe.reuse)
    clean = Style(skip=0.0, wrong=0.0, reuse=0.0)
    lengths = list(train_sets)
    easy_steps = round(recipe.easy_share * recipe.steps)
    for step in range(recipe.steps):
        easy = step < easy_steps
        weights = recipe.weights[:2] if easy else recipe.weights
        chosen = rng.choices(lengths[: len(weights)], weights, k=recipe.batch * (2 if easy else 1))
        sets = [rng.choice(train_sets[n]) for n in chosen]
        tokens, labels = _batch(ids, sets, clean if easy else style, rng)
        left = (recipe.steps - step) / max(1, round(recipe.decay * recipe.steps))
        for group in optim.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup, left)
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        wanted = labels != -100
        loss = F.cross_entropy(model.lm_head(hidden[wanted]), labels[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        yield loss.item()
