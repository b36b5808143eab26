"""The dry run's estimates, against counted parameters, saved tensors and sums by hand."""

from argparse import Namespace
from typing import Any
from unittest.mock import patch

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen3Config
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from asymrl.config.load import load_config
from asymrl.config.schema import Config, LoRAConfig, ShapeConfig
from asymrl.engines import lora
from asymrl.engines.memory import (
    CARD_80GB,
    CARDS,
    GIB,
    GPUMemoryEstimate,
    activation_bytes,
    assumed_card,
    count_adapters,
    count_layer,
    count_parameters,
    count_trained,
    describe,
    estimate_one_process,
    estimate_per_gpu,
    logits_bytes,
    offloads_during_rollouts,
    pinned_bytes,
    saved_by_layer,
)
from benchmarks.gpu import memory_config
from tests.helpers.models import tiny_model

TYPES = {"qwen3_4b": "qwen3", "qwen2.5_math_1.5b": "qwen2", "qwen2.5_7b": "qwen2"}
MODULES: dict[str, tuple[Any, Any, Any]] = {
    "qwen2": (Qwen2Config, qwen2.Qwen2DecoderLayer, qwen2.Qwen2RotaryEmbedding),
    "qwen3": (Qwen3Config, qwen3.Qwen3DecoderLayer, qwen3.Qwen3RotaryEmbedding),
}
TINY = ShapeConfig(
    layers=2, hidden=4, intermediate=8, heads=2, kv_heads=1, head_dim=2, vocab=10, tied=True
)
# by hand: a layer 4*2*(2*2+2*1) + 3*4*8 + 2*4 = 152; embedding 40; last norm 4
TINY_PARAMETERS = 2 * 152 + 40 + 4
GENERATING = "generating"
BACKWARD = "updating: forward and backward"
STEPPING = "updating: optimizer step"


def tiny(**policy: Any) -> Config:
    """A run of the tiny shape in bf16, with a row of 24 tokens."""
    base = load_config("qwen3_4b")
    return base.model_copy(
        update={
            "model": base.model.model_copy(update={"shape": TINY}),
            "data": base.data.model_copy(update={"max_prompt_tokens": 8}),
            "rollout": base.rollout.model_copy(update={"max_tokens": 16}),
            "policy": base.policy.model_copy(update=policy),
        }
    )


def items(name: str, gpus: int = 4, *overrides: str) -> GPUMemoryEstimate:
    return estimate_per_gpu(load_config(name, list(overrides)), gpus, CARD_80GB)


@pytest.mark.parametrize("gpus", [1, 4])
def test_the_benchmark_for_gpus_fits_on_cards_of_80_gb(gpus: int) -> None:
    config = memory_config(Namespace(max_tokens=1024, token_budget=16_384))
    assert config.model.shape and count_parameters(config.model.shape) == pytest.approx(
        1.72e9, rel=0.01
    )
    assert estimate_per_gpu(config, gpus, CARD_80GB).spare(CARD_80GB) > 10


@pytest.mark.parametrize("name", TYPES)
def test_the_parameter_count_equals_the_models(name: str) -> None:
    shape = load_config(name).model.shape
    assert shape
    config = AutoConfig.for_model(
        TYPES[name],
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = sum(p.numel() for p in model.parameters())
    assert count_parameters(shape) == pytest.approx(counted, rel=1e-3)


def saved_bytes_a_token(
    kind: str, shape: ShapeConfig, dtype: torch.dtype, autocast: bool = False, rank: int = 0
) -> float:
    """What autograd saves in one real layer, each storage once, parameters and rotations aside.
    rank: of adapters on its linear layers, of which the others are frozen.

    DeepSpeed replaces torch's linear for the rest of a process that has loaded a ZeRO-3 model, and
    its own saves no copies of weights; so this takes torch's."""
    config_type, layer_type, rotary_type = MODULES[kind]
    config = config_type(
        num_hidden_layers=1,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
    )
    config._attn_implementation = "sdpa"
    layer = layer_type(config, 0).to(dtype)
    if rank:
        settings = peft.LoraConfig(r=rank, target_modules=r".*_proj")
        layer = peft.inject_adapter_in_model(settings, layer).to(dtype)
    tokens = 64
    hidden = torch.ones(1, tokens, shape.hidden, dtype=dtype, requires_grad=True)
    rotations = rotary_type(config)(hidden, torch.arange(tokens)[None])
    not_activations = {t.untyped_storage().data_ptr() for t in (*layer.parameters(), *rotations)}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no address is reused
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        patch("torch.nn.functional.linear", torch._C._nn.linear),  # pyright: ignore[reportAttributeAccessIssue]
    ):
        layer(hidden, attention_mask=None, position_embeddings=rotations)
    sizes = [t.untyped_storage().nbytes() for p, t in saved.items() if p not in not_activations]
    return sum(sizes) / tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_a_layer_saves_as_many_bytes_as_the_formula_says(
    dtype: torch.dtype, heads: int, kv_heads: int
) -> None:
    """Qwen3 within 2%; Qwen2, which has no q and k norms, from 65% to 100% of it."""
    shape = ShapeConfig(
        layers=1,
        hidden=64,
        intermediate=160,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=32,
        vocab=50,
        tied=True,
    )
    expected = saved_by_layer(shape, dtype.itemsize)
    assert saved_bytes_a_token("qwen3", shape, dtype) == pytest.approx(expected, rel=0.02)
    assert 0.65 * expected < saved_bytes_a_token("qwen2", shape, dtype) <= expected


def test_under_autocast_a_layer_saves_copies_of_its_weights_and_at_most_fp32_activations() -> None:
    shape = ShapeConfig(
        layers=1, hidden=64, intermediate=160, heads=4, kv_heads=2, head_dim=32, vocab=50, tied=True
    )
    saved = 64 * saved_bytes_a_token("qwen3", shape, torch.float32, autocast=True)
    norms = 2 * shape.hidden  # not cast
    activations = saved - 2 * (count_layer(shape) - norms)
    assert 64 * saved_by_layer(shape, 2) < activations < 64 * saved_by_layer(shape, 4)


def test_a_policy_of_one_process_in_bf16_has_copies_of_its_weights() -> None:
    exact, bf16 = (estimate_one_process(tiny(dtype=d)) for d in ("float32", "bfloat16"))
    copies = "policy: bf16 copies of its weights"
    assert copies not in exact and bf16[copies] == 2 * TINY_PARAMETERS


def test_the_activations_of_a_tiny_model_equal_the_sum_by_hand() -> None:
    # norms 2*4*(4+4); q 4*(4+6), k and v 2*(4+6); MLP 4*8*2; statistics 4*(2+4+1)
    layer = 64 + 40 + 20 + 64 + 28
    assert saved_by_layer(TINY, 2) == layer
    in_flight, last = 2 * (3 * 8 + 2 * 4), 4 * (4 + 8)
    assert activation_bytes(TINY, 2, 1, True) == 2 * 2 * 4 + layer + in_flight + last
    assert activation_bytes(TINY, 2, 1, False) == 2 * layer + in_flight + last
    assert activation_bytes(TINY, 2, 7, True) == 7 * activation_bytes(TINY, 2, 1, True)
    assert logits_bytes(TINY, 4, 3) == 2 * 4 * 3 * 10
    assert logits_bytes(TINY, 2, 3) == (2 * 4 + 2) * 3 * 10
    assert logits_bytes(TINY, 4, 10**9) == 2 * 4 * 2**26


def test_the_items_of_a_tiny_model_equal_the_sums_by_hand() -> None:
    assert count_parameters(TINY) == TINY_PARAMETERS
    estimate = estimate_per_gpu(tiny(token_budget=32), 4, 80.0)
    shard = TINY_PARAMETERS // 4
    backward, stepping = estimate.phases[BACKWARD], estimate.phases[STEPPING]
    assert backward["weights, 1/N"] == 2 * shard
    assert backward["master weights, fp32, 1/N"] == 4 * shard
    assert backward["AdamW's moments, fp32, 1/N"] == 8 * shard
    assert backward["gradients, fp32, 1/N"] == 4 * shard
    assert backward["gathered parameters"] == 2 * TINY_PARAMETERS
    assert backward["gradients before they are reduced"] == 2 * (2 * 40 + 152)
    assert backward["copy of the reduce bucket, fp32"] == 4 * TINY_PARAMETERS
    assert backward["activations"] == activation_bytes(TINY, 2, 32, True)
    assert backward["gradient of the head, fp32"] == 4 * 40
    assert stepping["copy of a sub-group's gradients, fp32"] == 4 * shard
    generating = estimate.phases[GENERATING]
    assert generating["vLLM: weights"] == 2 * TINY_PARAMETERS
    assert generating["vLLM: KV cache"] == int(0.7 * 80 * GIB) - 4 * GIB - 2 * TINY_PARAMETERS
    assert (
        estimate.sequence == 24 * 2 * 2 * 1 * 2 * 2
    )  # tokens, k and v, layers, heads, width, bytes
    assert generating["policy: optimizer, fp32, 1/N"] == 12 * shard
    assert list(estimate.host.values()) == [12 * TINY_PARAMETERS, 696]


def test_a_row_longer_than_the_budget_counts_in_full() -> None:
    backward = estimate_per_gpu(tiny(token_budget=1), 4, 80.0).phases[BACKWARD]
    assert backward["activations"] == activation_bytes(TINY, 2, 24, True)


def test_fp32_parameters_have_master_weights_too() -> None:
    backward = estimate_per_gpu(tiny(dtype="float32"), 4, 80.0).phases[BACKWARD]
    assert backward["weights, 1/N"] == TINY_PARAMETERS
    assert backward["master weights, fp32, 1/N"] == TINY_PARAMETERS


@pytest.mark.parametrize("name", TYPES)
def test_more_gpus_need_less_memory_each_and_halve_only_sharded_items(name: str) -> None:
    offload = "policy.offload_during_rollouts=true"
    few, many = items(name, 2, offload), items(name, 4, offload)
    for phase in few.phases:
        for item, size in few.phases[phase].items():
            other = many.phases[phase][item]
            if item.endswith("1/N"):
                assert size == pytest.approx(2 * other, abs=16), item
            else:
                assert size >= other, item
    assert many.peak < few.peak


def test_the_optimizer_stays_on_the_gpu_during_rollouts_where_four_gib_remain() -> None:
    """Qwen3-4B on four cards of 80 GB has room for it, on two it does not; Qwen2.5-7B on eight."""
    for name, gpus, stays in (
        ("qwen3_4b", 4, True),
        ("qwen3_4b", 2, False),
        ("qwen2.5_7b", 4, False),
        ("qwen2.5_7b", 8, True),
    ):
        config = load_config(name)
        assert config.model.shape
        assert offloads_during_rollouts(config, gpus, CARD_80GB) != stays
        estimate = estimate_per_gpu(config, gpus, CARD_80GB)
        kept = estimate.phases[GENERATING]["policy: optimizer, fp32, 1/N"]
        assert kept == (12 * -(-count_parameters(config.model.shape) // gpus) if stays else 0)
        for setting in (True, False):
            fixed = load_config(name, [f"policy.offload_during_rollouts={setting}"])
            assert offloads_during_rollouts(fixed, gpus, CARD_80GB) == setting


def test_on_several_nodes_each_gpu_also_has_a_share_of_its_nodes_copy() -> None:
    one, two = (estimate_per_gpu(tiny(token_budget=32), 4, 80.0, nodes) for nodes in (1, 2))
    for phase, sizes in two.phases.items():
        added = sum(sizes.values()) - sum(one.phases[phase].values())
        assert added == 2 * TINY_PARAMETERS // 2, phase
    config = load_config("qwen2.5_7b")
    assert not offloads_during_rollouts(config, 8, CARD_80GB)
    assert offloads_during_rollouts(config, 8, CARD_80GB, nodes=4)


def test_pinned_buffers_are_rounded_up_to_powers_of_two() -> None:
    assert pinned_bytes(1000) == 4096
    assert pinned_bytes(1024) == 4096
    assert pinned_bytes(1_000_000_000 + 1025) == 2**32 + 8192  # a sub-group has at most 10^9
    host = items("qwen2.5_7b", 4).host["optimizer of all ranks"]
    assert host == 4 * 3 * 2 * 2**32  # 1.9e9 parameters on each rank


def test_both_models_fit_on_four_cards_of_80_gb_with_a_tenth_to_spare() -> None:
    for name in ("qwen3_4b", "qwen2.5_7b"):
        assert items(name).spare(CARD_80GB) > CARD_80GB / 10
        assert items(name).sequences >= 32


def test_offloading_moves_the_optimizer_off_the_gpu_and_onto_the_host() -> None:
    plain = items("qwen2.5_7b")
    offloaded = items("qwen2.5_7b", 4, "policy.offload_optimizer=true")
    for item in (
        "master weights, fp32, 1/N",
        "AdamW's moments, fp32, 1/N",
        "gradients, fp32, 1/N",
    ):
        assert plain.phases[BACKWARD][item] > 0
        assert offloaded.phases[BACKWARD][item] == offloaded.phases[STEPPING][item] == 0
    assert offloaded.phases[BACKWARD]["weights, 1/N"] == plain.phases[BACKWARD]["weights, 1/N"]
    assert plain.phases[STEPPING]["copy of a sub-group's gradients, fp32"] > 0
    assert offloaded.phases[STEPPING]["copy of a sub-group's gradients, fp32"] == 0
    assert sum(offloaded.host.values()) > sum(plain.host.values())


def test_a_setting_changes_the_items_that_it_affects() -> None:
    plain = items("qwen3_4b")
    wider = items("qwen3_4b", 4, "policy.token_budget=32768").phases[BACKWARD]
    assert wider["activations"] == 2 * plain.phases[BACKWARD]["activations"]
    whole = items("qwen3_4b", 4, "policy.gradient_checkpointing=false").phases[BACKWARD]
    assert whole["activations"] > 5 * plain.phases[BACKWARD]["activations"]
    less = items("qwen3_4b", 4, "rollout.gpu_memory_utilization=0.5")
    assert less.kv_cache == pytest.approx(plain.kv_cache - 0.2 * CARD_80GB * GIB, abs=2)
    split = items("qwen3_4b", 4, "rollout.tensor_parallel=2")
    assert 2 * split.phases[GENERATING]["vLLM: weights"] == pytest.approx(2 * 4_022_458_880)
    assert 2 * split.sequence == plain.sequence
    more_than_kv_heads = items("qwen3_4b", 16, "rollout.tensor_parallel=16")
    assert 8 * more_than_kv_heads.sequence == plain.sequence


def test_the_table_has_every_item_and_a_column_for_each_number_of_gpus() -> None:
    config = load_config("qwen3_4b")
    lines = describe(config, 0, 0.0).splitlines()
    estimate = estimate_per_gpu(config, 4, CARD_80GB)
    for phase, sizes in estimate.phases.items():
        start = lines.index(phase)
        for offset, (item, size) in enumerate(sizes.items(), start=1):
            line = lines[start + offset]
            assert line.startswith(f"  {item}  ")
            assert float(line.split()[-2]) == pytest.approx(size / GIB, abs=0.006)
        assert lines[start + len(sizes) + 1].split()[0] == "total"
    header = next(line for line in lines if line.startswith("N, the number"))
    assert header.split()[5:] == ["1", "2", "4", "8"]
    text = "\n".join(lines)
    assert "assuming 80 GB cards" in text and "4 GPUs: fits with" in text
    assert f"{estimate.sequences} sequences of 5,120 tokens" in text
    for item in estimate.host:
        assert item in text
    state = next(line for line in lines if line.startswith("a checkpoint: each rank's state"))
    assert float(state.split()[-2]) == pytest.approx(12 * 4_022_458_880 / 4 / GIB, abs=0.006)


def test_the_table_uses_the_machines_cards_and_multiples_of_tensor_parallel() -> None:
    config = load_config("qwen3_4b", ["rollout.tensor_parallel=2"])
    text = describe(config, gpus=6, gib=139.8)
    header = next(line for line in text.splitlines() if line.startswith("N, the number"))
    assert header.split()[5:] == ["2", "4", "6", "8"]
    assert "6 on this machine, 139.8 GiB each" in text and "assuming" not in text


def test_a_run_of_one_process_gets_the_estimate_of_one_process() -> None:
    def one_process(name: str, gpus: int, *overrides: str) -> bool:
        text = describe(load_config(name, list(overrides)), gpus=gpus, gib=80.0)
        return "hf rollouts, local policy" in text

    auto = ["rollout.engine=auto", "policy.backend=auto"]
    assert one_process("pocket", 0, *auto) and one_process("pocket", 2)
    assert not one_process("pocket", 2, *auto)
    assert not one_process("qwen3_4b", 0)
    assert one_process("qwen3_4b", 4, "rollout.engine=hf")
    assert one_process("qwen3_4b", 4, "policy.backend=local")


def test_longer_responses_need_more_kv_cache_and_larger_budgets_more_activations() -> None:
    base = estimate_one_process(load_config("qwen3_4b"))
    longer = estimate_one_process(load_config("qwen3_4b", ["rollout.max_tokens=9216"]))
    wider = estimate_one_process(load_config("qwen3_4b", ["policy.token_budget=32768"]))
    cache, activations = "KV cache, at most", "activations of a micro-batch, approximately"
    assert longer[cache] == 2 * base[cache]
    assert wider[activations] == 2 * base[activations]
    assert base["policy: fp32 weights, gradients, AdamW's moments"] == 16 * 4_022_458_880


LORA = {"lora": LoRAConfig(rank=2, alpha=4.0)}
# by hand: a layer's q 4+4, k and v 4+2, o 4+4, gate, up and down 4+8; 2 layers, rank 2
TINY_ADAPTERS = 2 * 2 * (8 + 6 + 6 + 8 + 12 + 12 + 12)


def test_the_adapter_count_equals_the_models() -> None:
    shape = ShapeConfig(**{**TINY.model_dump(), "hidden": 32, "heads": 2, "head_dim": 32})
    shape = shape.model_copy(update={"intermediate": 48, "vocab": 20})
    config = tiny(lora=LoRAConfig(rank=4))
    config = config.model_copy(update={"model": config.model.model_copy(update={"shape": shape})})
    model = lora.add_adapters(tiny_model(20, 7), LoRAConfig(rank=4), seed=0)
    assert count_adapters(config) == sum(p.numel() for p in lora.named_trained(model).values())
    assert count_adapters(tiny(**LORA)) == count_trained(tiny(**LORA)) == TINY_ADAPTERS
    two = tiny(lora=LoRAConfig(rank=3, targets=["v_proj", "down_proj"]))
    assert count_adapters(two) == 2 * 3 * (6 + 12)
    assert (count_adapters(tiny()), count_trained(tiny())) == (0, TINY_PARAMETERS)


def test_with_adapters_gradients_and_moments_are_theirs_alone() -> None:
    estimate = estimate_per_gpu(tiny(token_budget=32, **LORA), 4, 80.0)
    shard, backward = TINY_ADAPTERS // 4, estimate.phases[BACKWARD]
    assert backward["weights, 1/N"] == 2 * TINY_PARAMETERS // 4
    assert backward["master weights, fp32, 1/N"] == 4 * shard
    assert backward["AdamW's moments, fp32, 1/N"] == 8 * shard
    assert backward["gradients, fp32, 1/N"] == 4 * shard
    assert backward["adapters"] == 2 * TINY_ADAPTERS
    assert backward["reduce bucket, fp32"] == 4 * TINY_ADAPTERS
    assert backward["gradients before they are reduced"] == 2 * TINY_ADAPTERS // 2
    assert backward["gradient of the head, fp32"] == 0
    # an adapter saves 2 values of 2 bytes, 7 a layer, in the one layer that is not recomputed
    assert backward["activations"] == activation_bytes(TINY, 2, 32, True) + 32 * 7 * 2 * 2
    generating = estimate.phases[GENERATING]
    assert generating["vLLM: weights"] == 2 * TINY_PARAMETERS
    assert generating["policy: merging a weight, fp32"] == 3 * 4 * 4 * 8
    assert list(estimate.host.values()) == [12 * TINY_ADAPTERS, 2 * TINY_PARAMETERS]


def test_in_one_process_the_frozen_weights_are_in_the_dtype_of_the_forward_pass() -> None:
    exact, bf16 = (estimate_one_process(tiny(dtype=d, **LORA)) for d in ("float32", "bfloat16"))
    assert exact["policy: frozen weights, float32"] == 4 * TINY_PARAMETERS
    assert bf16["policy: frozen weights, bfloat16"] == 2 * TINY_PARAMETERS
    for sizes in (exact, bf16):
        assert sizes["policy: adapters, fp32, gradients, AdamW's moments"] == 16 * TINY_ADAPTERS
    assert bf16["policy: bf16 copies of its adapters"] == 2 * TINY_ADAPTERS


def test_a_reference_counts_only_with_a_penalty_and_without_adapters() -> None:
    def penalised(**policy: Any) -> Config:
        config = tiny(token_budget=32, **policy)
        return config.model_copy(update={"loss": config.loss.model_copy(update={"kl_coef": 0.1})})

    extra = {"reference of the KL penalty, 1/N": 2 * TINY_PARAMETERS // 4}
    plain, with_copy = estimate_per_gpu(tiny(token_budget=32), 4, 80.0), penalised()
    for phase, sizes in estimate_per_gpu(with_copy, 4, 80.0).phases.items():
        assert sizes.items() - plain.phases[phase].items() == extra.items(), phase
    one = estimate_one_process(with_copy)
    assert one["reference of the KL penalty: fp32 weights"] == 4 * TINY_PARAMETERS
    assert len(one) == len(estimate_one_process(tiny())) + 1
    adapted, same = penalised(**LORA), tiny(token_budget=32, **LORA)
    assert estimate_per_gpu(adapted, 4, 80.0) == estimate_per_gpu(same, 4, 80.0)
    assert estimate_one_process(adapted) == estimate_one_process(same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_with_adapters_saves_at_most_what_the_formula_says(dtype: torch.dtype) -> None:
    shape = ShapeConfig(
        layers=1, hidden=64, intermediate=160, heads=4, kv_heads=2, head_dim=32, vocab=50, tied=True
    )
    expected = saved_by_layer(shape, dtype.itemsize) + 7 * 8 * dtype.itemsize
    saved = saved_bytes_a_token("qwen3", shape, dtype, rank=8)
    assert 0.6 * expected < saved <= expected


def test_qwen3_with_adapters_fits_on_one_card_of_24_gb() -> None:
    config = load_config("qwen3_1.7b_lora")
    assert estimate_per_gpu(config, 1, CARDS[24]).spare(CARDS[24]) > 2
    assert assumed_card(config) == 24 and assumed_card(load_config("qwen3_4b")) == 80
    text = describe(config, 0, 0.0)
    assert "assuming 24 GB cards" in text and "34,865,152 of adapters" in text
    everything = load_config("qwen3_1.7b_lora", ["policy.lora=null"])
    assert estimate_per_gpu(everything, 1, CARDS[24]).spare(CARDS[24]) < -10
    assert assumed_card(load_config("qwen3_1.7b_lora", ["policy.token_budget=60000"])) == 48
