"""The pocket model, a small Qwen3, and its warm start: supervised training on demonstrations.

Knows the recipe and the task, and nothing about folders or rewards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from asymrl.pocket.modular_sums import (
    END,
    Facts,
    Numbers,
    Style,
    demonstration,
    misremembered_facts,
    question,
)
from asymrl.pocket.tokenizer import ASSISTANT, PAD, USER
from asymrl.types import frozen

MAX_LENGTH = 8192


@frozen
class Recipe:
    """Everything that the pocket policy depends on, apart from the seed.

    version: increase it when a code change alters the result, so that existing folders are rebuilt.
    easy_share: the fraction of steps at the start that use only the two shortest lengths, wrong
    facts as the only error, and batches twice as large. decay: the fraction of steps at the end
    over which lr falls linearly. weights: relative frequencies of the lengths n = 2, 3, ...
    skip, wrong, reuse, misremember: see `Style`. false_facts: the share of facts that are
    misremembered.
    """

    version: int = 2
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
    false_facts: float = 0.4
    misremember: float = 0.9


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A randomly initialised fp32 Qwen3 with tied embeddings, determined by recipe and seed."""
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
    ids: Mapping[str, int],
    sets: Sequence[Numbers],
    style: Style,
    rng: random.Random,
    facts: Facts,
) -> tuple[Tensor, Tensor]:
    """Demonstrations as (tokens, labels), each of shape (rows, T). The label -100 is ignored."""
    sequences, targets = [], []
    for numbers in sets:
        ordered = rng.sample(numbers, len(numbers))
        prompt = [ids[USER], *(ids[p] for p in question(ordered)), ids[ASSISTANT]]
        response = [ids[p] for p in demonstration(ordered, style, rng, facts)]
        sequences.append(prompt + response)
        targets.append([-100] * (len(prompt) - 1) + response)
    longest = max(map(len, sequences))
    tokens = [row[:-1] + [ids[PAD]] * (longest - len(row)) for row in sequences]
    labels = [row + [-100] * (longest - 1 - len(row)) for row in targets]
    return torch.tensor(tokens), torch.tensor(labels)


def warm_start(
    model: Qwen3ForCausalLM,
    ids: Mapping[str, int],
    train_sets: Mapping[int, Sequence[Numbers]],
    recipe: Recipe,
    seed: int,
) -> Iterator[float]:
    """Train `model` in place on demonstrations. Yields the loss of every step."""
    rng = random.Random(f"demonstrations/{seed}")
    optim = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0)
    facts = misremembered_facts(recipe.false_facts, seed)
    clean = Style(misremember=recipe.misremember)
    style = replace(clean, skip=recipe.skip, wrong=recipe.wrong, reuse=recipe.reuse)
    lengths = list(train_sets)
    easy_steps = round(recipe.easy_share * recipe.steps)
    for step in range(recipe.steps):
        easy = step < easy_steps
        weights = recipe.weights[:2] if easy else recipe.weights
        size = recipe.batch * (2 if easy else 1)
        batch_lengths = rng.choices(lengths[: len(weights)], weights, k=size)
        sets = [rng.choice(train_sets[n]) for n in batch_lengths]
        tokens, labels = _batch(ids, sets, clean if easy else style, rng, facts)
        decay = (recipe.steps - step) / max(1, round(recipe.decay * recipe.steps))
        for group in optim.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup, decay)
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        mask = labels != -100
        loss = F.cross_entropy(model.lm_head(hidden[mask]), labels[mask])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        yield loss.item()
