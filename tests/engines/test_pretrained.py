"""Models of others: what their files contain that a run must get right or refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

from asymrl.config.schema import ModelConfig
from asymrl.engines import pretrained, shared_prefix
from asymrl.engines.hf import HFEngine
from asymrl.errors import UserError
from asymrl.run.checkpoint import latest
from tests.helpers.engines import SAMPLING, decode, dense_values, requests
from tests.helpers.models import TINY
from tests.helpers.policies import LOSS, MIXED, VOCABULARY, close, gradients, policy, rollout_batch
from tests.helpers.runs import run


@pytest.mark.parametrize(
    "wrong", [{"do_sample": False, "temperature": 0.9, "top_p": 0.6}, {"early_stopping": True}]
)
def test_a_generation_config_that_cannot_be_saved_loses_no_checkpoint(
    model_folder: Path, tmp_path: Path, capsys, wrong: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    file = folder / "generation_config.json"
    kept = {"eos_token_id": [1, 3], "pad_token_id": 0}
    file.write_text(json.dumps(json.loads(file.read_text()) | kept | wrong))
    loaded = pretrained.load_model(ModelConfig(path=str(folder)), torch.float32)
    assert "checkpoints keep only its token ids" in capsys.readouterr().out
    loaded.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/generation_config.json").read_text())
    assert kept.items() <= saved.items() and not wrong.keys() & saved.keys()


def test_a_run_of_such_a_model_saves(config_file: Path, model_folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    file = folder / "generation_config.json"
    wrong = {"do_sample": False, "temperature": 0.9}
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    settings = [f"model.path={folder}", "steps=1", "eval.benchmarks=[]"]
    assert latest(run(config_file, tmp_path / "run", *settings))


# ---- attention that is soft-capped


@pytest.fixture(scope="module")
def capped(tmp_path_factory) -> Path:
    """A Gemma 2 whose attention scores are capped so low that the cap changes every token."""
    torch.manual_seed(0)
    config = Gemma2Config(
        **TINY,
        head_dim=16,
        vocab_size=VOCABULARY,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=None,
        initializer_range=0.5,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("capped")
    Gemma2ForCausalLM(config).save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return pretrained.load_model(ModelConfig(path=str(folder)), torch.float32)


def reference(folder: Path, attention: str = "eager") -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()


def test_a_cap_on_attention_is_kept(capped: Path, model_folder: Path) -> None:
    ids = torch.arange(1, 18)[None]
    ours, eager, sdpa = load(capped), reference(capped), reference(capped, "sdpa")
    torch.testing.assert_close(ours(ids).logits, eager(ids).logits)
    assert (ours(ids).logits - sdpa(ids).logits).abs().max() > 0.1, "the cap matters here"
    assert load(model_folder).config._attn_implementation == "sdpa"


def test_rollouts_and_scores_of_a_capped_model_equal_a_full_forward_pass(capped: Path) -> None:
    model, batch = reference(capped), requests()
    for rollout in HFEngine(load(capped), decode, 64).generate(batch, SAMPLING):
        dense, _ = dense_values(model, rollout, batch[rollout.draw - 40], 1.0)
        actual = torch.tensor(rollout.engine_logprobs)
        torch.testing.assert_close(actual, dense, atol=2e-5, rtol=1e-5)
    rows = rollout_batch(MIXED)
    scores, _ = policy(load(capped), temperature=1.0).score(rows)
    for r, sequence in enumerate(rows.sequences):
        ids, start = torch.tensor([list(sequence)]), int(rows.prompt_lengths[r])
        with torch.no_grad():
            dense = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        expected = dense.gather(1, ids[0, start:, None])[:, 0]
        torch.testing.assert_close(scores[rows.row == r], expected, atol=1e-5, rtol=1e-5)


def test_shared_prompts_keep_the_cap(capped: Path, monkeypatch) -> None:
    alone, shared = policy(load(capped)), policy(load(capped))
    batch = rollout_batch(MIXED)
    alone.update(batch, LOSS)
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS_SAVED", 0)
    shared.update(batch, LOSS)
    assert close(gradients(alone), gradients(shared))


# ---- heads and stop texts


def test_a_head_with_a_bias_is_one_sentence() -> None:
    sizes = {key: size for key, size in TINY.items() if key != "num_key_value_heads"}
    model = PhiForCausalLM(PhiConfig(**sizes, vocab_size=VOCABULARY))
    with pytest.raises(UserError, match="phi models are not supported: their LM head has a bias"):
        policy(model)


@pytest.fixture
def spaced() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before a text, and knows a line break only as a byte: as those
    of Llama 2 and Mistral."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: n for n, token in enumerate(["</s>", *byte_tokens, "▁", "a", "▁a"])}
    core = Tokenizer(BPE(vocabulary, [("▁", "a")], byte_fallback=True, unk_token="</s>"))
    core.pre_tokenizer = Metaspace(prepend_scheme="first")
    core.decoder = ByteFallback()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def test_a_line_break_is_a_stop_text_where_it_is_one_token_of_a_response(spaced) -> None:
    assert len(spaced.encode("\n", add_special_tokens=False)) == 2
    token = pretrained.token_of(spaced, "\n")
    assert spaced.convert_ids_to_tokens(token) == "<0x0A>"
    with pytest.raises(UserError, match=r"rollout.stop: '\\n\\n' is 3 tokens"):
        pretrained.token_of(spaced, "\n\n")
