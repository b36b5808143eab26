"""VLLMEngine with the real vLLM on a CPU: the contract of every rollout engine, and more.

All tests share one engine, because it is slow to open. Of the GPU code paths, only the order of the
calls and the engine arguments are tested, unless a GPU runs the tests that are marked gpu.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Qwen3Config

from asymrl.engines.distributed import World
from asymrl.engines.vllm import VLLMEngine, engine_arguments, restored_process
from asymrl.errors import UserError
from tests.helpers.engine_contract import EngineContract
from tests.helpers.engines import SAMPLING, STOP, VOCABULARY, by_key, decode, requests
from tests.helpers.models import tiny_model
from tests.helpers.vllm import (
    MODEL,
    NEEDS_VLLM,
    SMALL,
    assert_logprobs_are_of,
    assert_not_ready,
    fingerprints,
    make,
    named,
    opened,
)

pytestmark = NEEDS_VLLM
OTHER = "model.layers.0.self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def main(tmp_path_factory) -> Iterator[VLLMEngine]:
    """From a folder whose own sampling defaults would change every response, if they were used."""
    folder = tmp_path_factory.mktemp("main")
    MODEL.save_pretrained(folder)
    defaults = GenerationConfig(
        do_sample=True, top_k=1, temperature=0.01, repetition_penalty=9.0, eos_token_id=STOP
    )
    defaults.save_pretrained(folder)
    yield from opened(folder)


@pytest.fixture
def engine(main) -> VLLMEngine:
    main.load_weights(iter(named(MODEL).items()))
    return main


@pytest.mark.gpu
class TestContract(EngineContract):
    """vLLM keeps it."""


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_logprobs_are_those_of_the_model_at_the_sampling_temperature(
    engine, temperature: float
) -> None:
    sampling = replace(SAMPLING, temperature=temperature)
    assert_logprobs_are_of(MODEL, engine.generate(requests(), sampling), requests(), temperature)
    assert not engine.per_sample_seeds  # the default without a GPU


def long_request(samples: int):
    """Longer than a block of the prefix cache, 128 tokens."""
    (request,) = requests(1, samples)
    ids = tuple((7 * n * n + 3) % VOCABULARY for n in range(200))
    return replace(request, problem=replace(request.problem, prompt_ids=ids))


def test_loading_weights_clears_the_prefix_cache(engine) -> None:
    batch, other = [long_request(8)], tiny_model(VOCABULARY, STOP, seed=5)
    assert_logprobs_are_of(MODEL, engine.generate(batch, SAMPLING), batch)
    engine.load_weights(iter(named(other).items()))
    assert_logprobs_are_of(other, engine.generate(batch, SAMPLING), batch)


def test_samples_share_their_prefill_within_a_call_only(engine, monkeypatch) -> None:
    outputs, step = [], engine.llm.step
    monkeypatch.setattr(engine.llm, "step", lambda: outputs.extend(got := step()) or got)
    first = by_key(engine.generate([long_request(8)], SAMPLING))
    torch.rand(3)
    assert by_key(engine.generate([long_request(8)], SAMPLING)) == first
    assert sorted(o.num_cached_tokens for o in outputs) == [0, 0] + 14 * [128]


@pytest.mark.gpu
def test_tokens_depend_on_the_seed_of_the_request(engine) -> None:
    (request,) = requests(1, 30)
    responses = {r.token_ids for r in engine.generate([request], SAMPLING)}
    assert len(responses) > 20
    other = replace(request, seed=1)
    assert {r.token_ids for r in engine.generate([other], SAMPLING)} != responses


def test_with_per_sample_seeds_a_sample_does_not_depend_on_the_batch(main) -> None:
    engine = VLLMEngine(main.llm, decode, per_sample_seeds=True)
    engine.load_weights(iter(named(MODEL).items()))
    together = by_key(engine.generate(requests(), SAMPLING))
    assert len({rollout.token_ids for rollout in together.values()}) > 20
    for request in requests(samples=2):
        for alone in engine.generate([request], SAMPLING):
            assert alone.token_ids == together[alone.draw, alone.sample].token_ids


def test_first_tokens_follow_the_distribution(engine) -> None:
    batch = requests(1, 3000)
    with torch.no_grad():
        ids = torch.tensor([batch[0].problem.prompt_ids])
        probs = (MODEL(input_ids=ids).logits[0, -1] / 2.0).softmax(-1)
    sampling = replace(SAMPLING, temperature=2.0, max_tokens=1)
    tokens = [rollout.token_ids[0] for rollout in engine.generate(batch, sampling)]
    seen = torch.bincount(torch.tensor(tokens), minlength=VOCABULARY) / 3000
    torch.testing.assert_close(seen, probs, atol=0.03, rtol=0)


def test_greedy_returns_the_most_likely_token(engine) -> None:
    for rollout in engine.generate(requests(3, 2), replace(SAMPLING, temperature=0.0)):
        prompt = requests()[rollout.draw - 40].problem.prompt_ids
        ids = torch.tensor([prompt + rollout.token_ids])
        with torch.no_grad():
            logits = MODEL(input_ids=ids).logits[0, :-1]
        most_likely = logits[-len(rollout.token_ids) :].argmax(-1)
        assert tuple(most_likely.tolist()) == rollout.token_ids


@pytest.mark.gpu
def test_every_stop_token_ends_a_response(engine) -> None:
    rollouts = list(engine.generate(requests(), SAMPLING))
    assert {r.token_ids[-1] for r in rollouts if not r.truncated} == set(SAMPLING.stop_ids)
    none = replace(SAMPLING, stop_ids=())  # the model's own stop token does not count either
    assert all(len(r.token_ids) == 12 for r in engine.generate(requests(), none))


@pytest.mark.gpu
def test_rollouts_are_yielded_as_they_finish(engine) -> None:
    lengths = []
    for rollout in engine.generate(requests(), SAMPLING):
        if not lengths:
            assert engine.llm.has_unfinished_requests()
        lengths.append(len(rollout.token_ids))
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


@pytest.mark.gpu
def test_no_requests_give_no_rollouts(engine) -> None:
    assert list(engine.generate([], SAMPLING)) == []


@pytest.mark.gpu
def test_generation_that_stops_early_leaves_no_requests(engine) -> None:
    whole = by_key(engine.generate(requests(), SAMPLING))
    rollouts = engine.generate(requests(), SAMPLING)
    next(rollouts)
    rollouts.close()
    assert not engine.llm.has_unfinished_requests()
    assert by_key(engine.generate(requests(), SAMPLING)) == whole


@pytest.mark.gpu
def test_a_sleeping_engine_needs_weights_before_it_generates(engine) -> None:
    engine.sleep()
    assert_not_ready(engine)
    engine.load_weights(iter(named(MODEL).items()))
    assert len(list(engine.generate(requests(), SAMPLING))) == 30


@pytest.mark.parametrize("after", [1, 3, 8])
def test_after_a_failed_load_the_next_load_replaces_all_weights(engine, after: int) -> None:
    def failing():
        yield from list(named(tiny_model(VOCABULARY, STOP, seed=5)).items())[:after]
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        engine.load_weights(failing())
    assert_not_ready(engine)
    model = tiny_model(VOCABULARY, STOP, seed=6)
    engine.load_weights(iter(named(model).items()))
    assert engine.fingerprint(list(named(model))) == fingerprints(model)
    assert_logprobs_are_of(model, engine.generate(requests(), SAMPLING), requests())


@pytest.mark.gpu
@pytest.mark.parametrize("fault", ["missing", "unknown", "twice"])
def test_a_load_needs_every_tensor_exactly_once(engine, fault: str) -> None:
    tensors = list(named(MODEL).items())
    sent = {
        "missing": [pair for pair in tensors if pair[0] != OTHER],
        "unknown": [*tensors, ("model.layers.9.mlp.up_proj.weight", torch.zeros(48, 32))],
        "twice": [*tensors, (OTHER, named(MODEL)[OTHER])],
    }
    name = "layers.9" if fault == "unknown" else OTHER
    with pytest.raises(RuntimeError, match=name):
        engine.load_weights(iter(sent[fault]))
    assert_not_ready(engine)


@pytest.mark.gpu
def test_parameters_may_be_emptied_after_they_were_sent(engine) -> None:
    """As ZeRO-3 does with gathered parameters."""

    def gathered():
        for name, parameter in tiny_model(VOCABULARY, STOP, seed=5).named_parameters():
            yield name, parameter
            parameter.data = torch.empty(0)

    engine.load_weights(gathered())
    expected = fingerprints(tiny_model(VOCABULARY, STOP, seed=5))
    assert engine.fingerprint(list(expected)) == pytest.approx(expected, rel=1e-9)


def test_a_tensor_that_cannot_be_read_back_is_named(engine) -> None:
    def move_the_embedding(model):
        model.model.embed_tokens.weight.data[3, 5] += 0.5

    engine.llm.apply_model(move_the_embedding)
    # the embedding differs from the head, and the model has no layer 9
    for name in (
        "model.embed_tokens.weight",
        "model.layers.9.norm.weight",
    ):
        with pytest.raises(RuntimeError, match=re.escape(name)):
            engine.fingerprint([name])


class Recorder:
    """Records the calls of vLLM's engine."""

    model_config = SimpleNamespace(dtype=torch.float32, enable_sleep_mode=True)

    def __init__(self) -> None:
        self.calls: list[object] = []

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake_up", *tags))

    def apply_model(self, function) -> list[list[str]]:
        return [["a", "b"]]

    def collective_rpc(self, method: str, kwargs) -> None:
        self.calls.append((method, [name for name, _ in kwargs["weights_iterator"]]))

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return True


def test_on_a_gpu_sleep_frees_memory_and_a_load_allocates_it_in_stages(monkeypatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: recorder.calls.append("empty_cache"))
    engine = VLLMEngine(recorder, decode)  # asleep
    assert engine.per_sample_seeds
    engine.sleep()  # has no effect
    assert recorder.calls == [("sleep", 2), "empty_cache"]
    recorder.calls.clear()
    engine.load_weights((name, torch.zeros(2)) for name in "ab")
    assert recorder.calls == [
        "empty_cache",
        ("wake_up", "weights"),
        ("reload_weights", ["a", "b"]),
        "reset_prefix_cache",
        "empty_cache",
        ("wake_up", "kv_cache"),
    ]
    assert engine.ready


def arguments_for(path: Path, world: World, gpu: bool) -> dict:
    model: dict[str, Any] = {"max_model_len": 256, "revision": None, "trust_remote_code": False}
    others: dict[str, Any] = {"dtype": torch.bfloat16, "max_rows": 64, "enforce_eager": False}
    return engine_arguments(
        str(path), world=world, gpu=gpu, gpu_memory_utilization=0.6, **model, **others
    )


def test_vllm_accepts_the_engine_arguments(main, model_folder) -> None:
    from vllm import EngineArgs  # pyright: ignore

    cpu = arguments_for(model_folder, World(), gpu=False)
    gpu = EngineArgs(
        **arguments_for(model_folder, World(rank=1, size=4, tensor_parallel=2), gpu=True)
    )
    assert (gpu.enable_sleep_mode, gpu.gpu_memory_utilization, gpu.enforce_eager) == (1, 0.6, 0)
    assert gpu.async_scheduling and "hf_overrides" not in cpu
    assert (gpu.distributed_executor_backend, gpu.tensor_parallel_size) == ("external_launcher", 2)
    with restored_process():
        config = EngineArgs(**cpu).create_engine_config()
        cpu["hf_overrides"] = gpu.hf_overrides
        overridden = EngineArgs(**cpu).create_engine_config()
    assert overridden.model_config.head_dtype == torch.float32
    assert config.model_config.dtype == torch.bfloat16 and config.model_config.enforce_eager
    assert config.cache_config.kv_cache_memory_bytes == 2**30
    assert config.parallel_config.distributed_executor_backend == "uni"
    assert not config.model_config.enable_sleep_mode


def test_opening_an_engine_does_not_change_the_process(main) -> None:
    assert {"LOCAL_WORLD_SIZE", "LD_PRELOAD"}.isdisjoint(os.environ)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "ranks", "message"),
    [
        ({"head_dim": 16}, 1, "heads of size 16"),
        ({}, 3, "must be divisible by tensor parallel size"),
        ({"architectures": ["NoSuchForCausalLM"]}, 1, "NoSuchForCausalLM.* not supported"),
        ({"max_position_embeddings": 100}, 1, "max_model_len"),
    ],
)
def test_a_model_that_vllm_cannot_open_raises_a_user_error(
    tmp_path, change: dict, ranks: int, message: str
) -> None:
    settings = SMALL | {"head_dim": 32, "architectures": ["Qwen3ForCausalLM"]} | change
    Qwen3Config(**settings).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"vLLM cannot open model .*: .*{message}"):
        make(tmp_path, torch.float32, World(size=ranks, tensor_parallel=ranks))
