"""LoRA: the adapters train as a plain peft model's do, and reach engine and disk merged.

Runs for LocalPolicy, and for DeepSpeedPolicy on all ranks that run this file, as test_policies.py
does.
"""

import weakref
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from asymrl.config.schema import LoRAConfig
from asymrl.engines import lora
from asymrl.engines.policy import SECTIONS
from asymrl.errors import UserError
from tests.helpers.engines import SAMPLING, dense_values, requests
from tests.helpers.engines import hf as hf_engine
from tests.helpers.models import tiny_model
from tests.helpers.policies import (
    BONUS,
    LOSS,
    MIXED,
    SHARDED,
    STOP,
    VOCABULARY,
    adapted_model,
    close,
    dense_gradients,
    gradients,
    parts_of,
    policy,
    rollout_batch,
    state_of,
)

BLOCK = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(params=[pytest.param(policy, id="local"), SHARDED[0]])
def make(request):
    """Makes a policy from a model."""
    return request.param


def plain_peft(targets=BLOCK) -> peft.PeftModel:
    """What a user of peft alone would write, with the adapters of adapted_model()."""
    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny_model(VOCABULARY, STOP), settings)
    assert isinstance(model, peft.PeftModel)
    ours = lora.named_trained(adapted_model(targets))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(named) == len(ours)
    for name, parameter in named.items():
        short = name.removeprefix("base_model.model.").replace(".default.", ".")
        parameter.data.copy_(ours[short].data)
    return model


@pytest.mark.parametrize("make", [pytest.param(policy, id="local"), *SHARDED])
@pytest.mark.parametrize(
    ("bonus", "budget", "checkpointing"), [(0.0, 40, False), (0.1, 10000, True)]
)
def test_gradients_equal_those_of_a_plain_peft_model(make, bonus, budget, checkpointing) -> None:
    trained = make(adapted_model(), token_budget=budget, gradient_checkpointing=checkpointing)
    batch = rollout_batch(MIXED, bonus)
    trained.update(batch, BONUS if bonus else LOSS)
    assert close(gradients(trained), dense_gradients(batch, bonus, plain_peft()))


@pytest.mark.parametrize("targets", [["q_proj"], ["o_proj", "down_proj"]])
def test_prompts_may_be_shared_below_the_first_adapter(targets, monkeypatch) -> None:
    """Keys and values of the first layer then have no graph."""
    from asymrl.engines import shared_prefix

    monkeypatch.setattr(shared_prefix, "MIN_TOKENS_SAVED", 1)
    trained, batch = policy(adapted_model(targets)), rollout_batch(MIXED)
    trained.update(batch, LOSS)
    assert close(gradients(trained), dense_gradients(batch, 0.0, plain_peft(targets)))


def test_a_policy_starts_as_its_model(make) -> None:
    batch = rollout_batch(MIXED)
    ours, theirs = make(adapted_model(start=True)), make(tiny_model(VOCABULARY, STOP))
    for mine, same in zip(ours.score(batch), theirs.score(batch), strict=True):
        assert torch.equal(mine, same)
    mine, same = dict(ours.named_weights()), dict(theirs.named_weights())
    assert list(mine) == list(same)
    assert all(torch.equal(mine[name], same[name]) for name in same)


def test_an_update_changes_the_adapters_only(make) -> None:
    trained = make(adapted_model())
    frozen = {n: w.base for n, w in lora.named_weights(trained.module.model).items()}
    assert not any(parameter.requires_grad for parameter in frozen.values())
    before = dict(state_of(trained).weights)
    merged = {name: tensor.clone() for name, tensor in trained.named_weights()}
    trained.update(rollout_batch(MIXED), LOSS)
    after = state_of(trained)
    assert len(before) == 2 * 2 * len(BLOCK) and all(lora.is_adapter(name) for name in before)
    for section in SECTIONS:
        assert getattr(after, section).keys() == before.keys()
    assert not any(torch.equal(after.weights[name], before[name]) for name in before)
    changed = {name for name, w in trained.named_weights() if not torch.equal(w, merged[name])}
    assert {name.split(".")[-2] for name in changed} == {*BLOCK} and len(changed) == 2 * len(BLOCK)


def test_the_merged_weights_give_the_policys_logprobs(make) -> None:
    """In a plain model, and in the hf engine, which receives them."""
    trained, batch = make(adapted_model()), rollout_batch(MIXED)
    trained.update(batch, LOSS)
    merged, engine = tiny_model(VOCABULARY, STOP), hf_engine()
    merged.load_state_dict(dict(trained.named_weights()), strict=False)
    engine.load_weights(trained.named_weights())
    logprobs, entropy = trained.score(batch)
    for mine, same in zip((logprobs, entropy), policy(merged).score(batch), strict=True):
        torch.testing.assert_close(mine, same, atol=1e-5, rtol=1e-5)
    for rollout in engine.generate(requests(2, 2), SAMPLING):
        dense, _ = dense_values(merged, rollout, requests(2, 2)[rollout.draw - 40], 1.0)
        torch.testing.assert_close(torch.tensor(rollout.engine_logprobs), dense)


def test_weights_are_merged_one_at_a_time(make) -> None:
    """When the next one is taken, the one before is gone: no second model exists."""
    trained, previous = make(adapted_model()), None
    for name, tensor in trained.named_weights():
        assert previous is None or previous() is None
        previous = weakref.ref(tensor) if name.split(".")[-2] in BLOCK else None


def test_a_policy_with_a_loaded_state_continues_bit_by_bit(make) -> None:
    one, other = make(adapted_model()), make(adapted_model(start=True))
    batch = rollout_batch(MIXED)
    one.update(batch, LOSS)
    other.load_state(parts_of(one))
    one.update(batch, LOSS)
    other.update(batch, LOSS)
    weights, same = dict(one.named_weights()), dict(other.named_weights())
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_state_of_other_adapters_raises_an_error_that_names_one(make) -> None:
    parts = parts_of(make(adapted_model()))
    with pytest.raises(UserError, match=r"another model: the shape of .*lora_A"):
        make(adapted_model(["q_proj"])).load_state(parts)


def test_saved_adapters_open_with_peft_and_the_merged_folder_with_transformers(
    make, tmp_path: Path
) -> None:
    trained, batch = make(adapted_model()), rollout_batch(MIXED)
    trained.update(batch, LOSS)
    logprobs, _ = trained.score(batch)
    both, adapters = trained.full_weights(), trained.full_weights(merged=False)
    if not both:
        return  # rank 0 writes
    tiny_model(VOCABULARY, STOP).save_pretrained(tmp_path / "base")
    trained.save_pretrained(tmp_path / "both", both)
    (tmp_path / "adapters").mkdir()
    trained.save_pretrained(tmp_path / "adapters", adapters)
    assert {p.name for p in (tmp_path / "adapters").iterdir()} == {
        *("adapter", "config.json", "generation_config.json")
    }
    loaded: list[Any] = [AutoModelForCausalLM.from_pretrained(tmp_path / "both")]
    for name in ("both", "adapters"):
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        loaded.append(peft.PeftModel.from_pretrained(base, tmp_path / name, subfolder="adapter"))
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        loaded.append(lora.merge_saved(base, tmp_path / name / "adapter"))
        assert not list(lora.adapted_layers(loaded[-1]))
    ids = torch.tensor([list(batch.sequences[3])])
    start, of_row = int(batch.prompt_lengths[3]), batch.row == 3
    for model in loaded:
        with torch.no_grad():
            dense = (model(input_ids=ids).logits[0, start - 1 : -1] / 0.8).log_softmax(-1)
        chosen = dense.gather(1, ids[0, start:, None])[:, 0]
        torch.testing.assert_close(logprobs[of_row], chosen, atol=1e-5, rtol=1e-5)


def test_in_bf16_the_adapters_stay_fp32_and_the_frozen_weights_do_not() -> None:
    trained, batch = policy(adapted_model(dtype=torch.bfloat16), bf16=True), rollout_batch(MIXED)
    stats = trained.update(batch, LOSS)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in trained.named_parameters.values())
    assert {w.dtype for _, w in trained.named_weights()} == {torch.bfloat16}
    full = policy(adapted_model())
    assert stats.grad_norm == pytest.approx(full.update(batch, LOSS).grad_norm, rel=0.1)
    assert close(gradients(trained), gradients(full), tolerance=0.2)


def test_the_first_adapters_depend_on_the_seed_and_the_layer_only() -> None:
    settings = LoRAConfig(rank=3, targets=["v_proj", "q_proj"])
    torch.manual_seed(1)
    one = lora.named_trained(lora.add_adapters(tiny_model(9, 1), settings, seed=5))
    torch.manual_seed(2)
    alone = LoRAConfig(rank=3, targets=["v_proj"])
    same = lora.named_trained(lora.add_adapters(tiny_model(9, 1), alone, seed=5))
    other = lora.named_trained(lora.add_adapters(tiny_model(9, 1), alone, seed=6))
    assert len(one) == 8 and len(same) == 4
    assert all(torch.equal(one[name], same[name]) for name in same)
    a = "model.layers.1.self_attn.v_proj.lora_A.weight"
    assert not torch.equal(other[a], same[a])
    assert 0.9 / 32**0.5 < same[a].abs().max() <= 1 / 32**0.5  # as in peft: within 1 / sqrt(in)
    assert all(not tensor.any() for name, tensor in one.items() if "lora_B" in name)


@pytest.mark.parametrize("target", ["query", "lm_head", "embed_tokens", "self_attn"])
def test_a_target_that_is_no_linear_layer_of_the_blocks_names_those_there_are(target) -> None:
    with pytest.raises(UserError, match=f"is named {target}; valid are {', '.join(BLOCK)}, and"):
        lora.target_layers(tiny_model(VOCABULARY, STOP), ["q_proj", target])


def test_a_model_without_linear_layers_raises_an_error() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=9))
    with pytest.raises(UserError, match="gpt2 models: their blocks have no"):
        lora.target_layers(model, "all-linear")
