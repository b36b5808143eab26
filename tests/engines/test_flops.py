"""The operations of a policy, against numbers by hand and torch's own counter."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from asymrl.config.schema import LoRAConfig
from asymrl.engines import flops, lora
from asymrl.engines.flops import (
    Work,
    device_peak,
    forward_flops,
    peak_flops,
    update_flops,
    utilisation,
    work_per_token,
)
from asymrl.engines.policy import PolicyModule
from tests.helpers.batches import batch_of, tokens_of
from tests.helpers.models import TINY, tiny_model

HAND = Work(matrices=100, attention=10, head=1000, peak=1e6)


def untied_model():
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config)


MODELS = {"tied": lambda: tiny_model(101, 1), "untied": untied_model}


def test_the_operations_of_a_forward_pass_equal_those_counted_by_hand():
    # T = 3, R = 2: 2 (100 x 3 + 1000 x 2 + 2 x 10 x 6); T = 1, R = 1: 2 (100 + 1000 + 20)
    assert forward_flops(HAND, torch.tensor([3]), torch.tensor([2])) == 2 * (300 + 2000 + 120)
    assert forward_flops(HAND, torch.tensor([3, 1]), torch.tensor([2, 1])) == 4840 + 2240
    assert forward_flops(HAND, torch.tensor([], dtype=torch.long), torch.tensor([])) == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_work_per_token_equals_the_weights_counted_by_hand(name: str):
    work = work_per_token(MODELS[name]())
    if name == "tied":  # q 32x64, k and v 32x32, o 64x32, MLP 3 x 32x48; 2 layers
        layer = 32 * 64 + 2 * 32 * 32 + 64 * 32 + 3 * 32 * 48
        assert work == Work(matrices=2 * layer, attention=2 * 2 * 32, head=101 * 32)
    else:  # q and o 64x64, k and v 64x32, MLP 3 x 64x80; 3 layers; biases left out
        layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 80
        assert work == Work(matrices=3 * layer, attention=3 * 64, head=97 * 64)


def test_only_the_text_part_of_a_multimodal_model_counts():
    text = untied_model()
    with torch.device("meta"):
        multimodal = LlavaForConditionalGeneration(LlavaConfig(text_config=text.config))
    assert work_per_token(multimodal) == work_per_token(text)


def test_a_mixture_of_experts_has_no_peak(monkeypatch):
    config = Qwen3MoeConfig(
        vocab_size=97, **TINY, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2
    )
    monkeypatch.setattr(flops, "peak_flops", lambda devices: 1e12)
    assert work_per_token(untied_model()).peak == 1e12
    assert work_per_token(Qwen3MoeForCausalLM(config)).peak is None


def counted(model, batch: int, length: int, responses: int, backward: bool) -> int:
    """What torch counts for rows of equal length, with attention as plain matrix products."""
    module = PolicyModule(model, 1.0)
    model.config._attn_implementation = "eager"
    ids = torch.zeros(batch, length, dtype=torch.long)
    sequence = torch.repeat_interleave(torch.arange(batch), responses)
    position = torch.arange(length - responses, length).repeat(batch)
    with FlopCounterMode(display=False) as counter:
        logprobs, _ = module(ids, sequence, position, torch.zeros(batch * responses).long())
        if backward:
            logprobs.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backward", [False, True])
def test_operations_equal_what_torch_counts(name: str, backward: bool):
    """Except for two things: torch counts the full square of the attention, and the logits that
    the backward pass computes again."""
    model, batch, length, responses = MODELS[name](), 2, 19, 7
    work = work_per_token(model)
    lengths, counts = torch.full((batch,), length), torch.full((batch,), responses)
    expected = forward_flops(work, lengths, counts) * (3 if backward else 1)
    square = batch * 4 * work.attention * length**2
    triangle = batch * 4 * work.attention * length * (length + 1) / 2
    expected += (square - triangle) * (3 if backward else 1)
    expected += 2 * work.head * batch * responses if backward else 0
    assert counted(model, batch, length, responses, backward) == expected


def test_only_rows_with_a_forward_and_backward_pass_count(monkeypatch):
    """A row's last token is not an input: of 2 + 3 tokens, 4 are."""
    mixed = batch_of([2, 5], [3, 4], [True, False])
    alone = forward_flops(HAND, torch.tensor([4]), torch.tensor([3]))
    seconds = {"time/update": 2.0, "time/score": 0.5}
    scored = tokens_of([2, 5], [3, 4])
    both = alone + forward_flops(HAND, torch.tensor([8]), torch.tensor([4]))
    shares = utilisation(HAND, [scored], [mixed, mixed], seconds)
    assert shares == pytest.approx(
        {"perf/update_mfu": 2 * 3 * alone / 2e6, "perf/score_mfu": both / 5e5}
    )
    with_reference = utilisation(HAND, [scored, scored], [mixed], seconds)
    assert with_reference["perf/score_mfu"] == pytest.approx(2 * both / 5e5)
    assert set(utilisation(HAND, [], [mixed], seconds)) == {"perf/update_mfu"}
    assert utilisation(replace(HAND, peak=None), [scored], [mixed], seconds) == {}


def test_frozen_weights_cost_no_gradient_of_their_own():
    batch = batch_of([2], [3], [True])
    # T = 4, R = 3: forward 2 (100 x 4 + 1000 x 3 + 2 x 10 x 10); frozen 2 (90 x 4 + 1000 x 3)
    frozen = replace(HAND, frozen_matrices=90, frozen_head=1000)
    assert update_flops(HAND, batch) == 3 * 7200
    assert update_flops(frozen, batch) == 3 * 7200 - 6720


def test_operations_with_adapters_equal_what_torch_counts():
    """Except as without them, and for the first layer's queries, keys and values, whose input needs
    no gradient."""
    model, batch, length, responses, rank = tiny_model(101, 1), 2, 19, 7, 4
    plain = work_per_token(model)
    lora.add_adapters(model, LoRAConfig(rank=rank), seed=0)
    work = work_per_token(model)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert work.matrices == plain.matrices + adapters and work.attention == plain.attention
    assert (work.frozen_matrices, work.frozen_head) == (plain.matrices, plain.head)
    tokens = batch_of([length - responses + 1] * batch, [responses] * batch, [True] * batch)
    expected = update_flops(work, tokens)
    expected += 3 * batch * 4 * work.attention * (length**2 - length * (length + 1) / 2)
    expected += 2 * work.head * batch * responses
    inputs = 32 * 64 + 2 * 32 * 32 + 3 * rank * 32
    expected -= 2 * inputs * batch * length
    assert counted(model, batch, length, responses, True) == expected


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peak_of_a_device_is_found_by_its_name(name: str, teraflops: float | None):
    peak = device_peak(name)
    assert peak == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_the_peak_is_that_of_all_devices_and_none_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert peak_flops(4) == 4 * 989e12
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert peak_flops(1) is None
    assert flops.BF16_PEAKS["H200"] == 989e12


def test_position_embeddings_do_not_count():
    """12 x width^2 a layer, for any number of positions."""
    config = GPT2Config(vocab_size=97, n_positions=500, n_embd=16, n_layer=3, n_head=2)
    assert work_per_token(GPT2LMHeadModel(config)).matrices == 3 * 12 * 16**2
