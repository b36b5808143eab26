"""A tiny model, and real data files where there are any. Checks `asymrl.algo`'s shapes."""

import json
import os
import signal
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("asymrl.algo", "beartype.beartype")  # before anything imports it

from transformers import (  # noqa: E402
    Lfm2Config,
    Lfm2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import train  # noqa: E402
from asymrl.pocket.tokenizer import build_tokenizer  # noqa: E402
from tests.first_letter import registered  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None, max_examples=50)  # a shared machine is slow
settings.load_profile("untimed")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real problem files beside a checkout; a test that needs it skips without."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data files are not here: {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer(1024)


TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def tiny_model(vocabulary: int, stop_id: int, seed: int = 0) -> Qwen3ForCausalLM:
    """A random Qwen3 with grouped-query attention and tied embeddings. Its weights are large, so
    that its distributions differ from token to token."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        **TINY,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        initializer_range=0.3,
        eos_token_id=stop_id,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


def convolving_model(vocabulary: int) -> Lfm2ForCausalLM:
    """One of whose layers keeps the last states instead of keys and values."""
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=vocabulary,
        **TINY,
        layer_types=["conv", "full_attention"],
    )
    return Lfm2ForCausalLM(config).eval()


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """By the tests and by what they start, under nohup and in a shell's background too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    """An ordinary Hugging Face folder that knows nothing yet."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(len(tokenizer), tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CONFIG = """
model: {{path: {model}}}
data: {{train: {data}}}
rollout: {{prompts: 6, group_size: 4, max_tokens: 6, sync_check_every: 2}}
verifier: {{name: first_letter}}
advantage: {{name: asym, beta_pos: 0.9, beta_neg: 0.4}}
optim: {{lr: 3.0e-3, minibatch_prompts: 3, betas: [0.9, 0.95]}}
policy: {{threads: 1}}
eval: {{every: 2, benchmarks: [{data}], limit: 4, temperature: 1.0}}
checkpoint: {{every: 1, keep: 99}}
tracking: {{rollouts_every: 2, logprob_gain_every: 1}}
steps: 5
"""


@pytest.fixture(scope="session", autouse=True)
def first_letter():
    with registered():
        yield


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, model_folder) -> Path:
    folder = tmp_path_factory.mktemp("config")
    rows = ({"id": str(n), "problem": f"What is {n}?", "answer": str(n)} for n in range(9))
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = CONFIG.format(model=model_folder, data=folder / "problems.jsonl")
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


def run(config_file: Path, folder: Path, *overrides: str) -> Path:
    arguments = ["--config", str(config_file), "--output-dir", str(folder), *overrides]
    assert train.main(arguments) == 0
    return folder


@pytest.fixture(scope="session")
def finished(config_file, tmp_path_factory) -> Path:
    return run(config_file, tmp_path_factory.mktemp("runs") / "whole")
