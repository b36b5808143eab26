"""Which engine and policy a machine gets, and how rollouts are shared out over its processes."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asymrl.config.load import load_config
from asymrl.config.schema import ModelConfig
from asymrl.engines.build import (
    Machine,
    build_policy,
    choose,
    load_pretrained_weights,
    model_to_share,
)
from asymrl.engines.distributed import World, from_environment
from asymrl.engines.hf import HFEngine
from asymrl.engines.pretrained import load_model
from asymrl.engines.rollout import check_weights_arrived
from asymrl.errors import UserError


def here(processes: int = 1, gpus: int = 0, **others: Any) -> Machine:
    given: dict[str, Any] = {"vllm": True, "deepspeed": True} | others
    return Machine(processes=processes, gpus=gpus, **given)


def chosen(machine: Machine, *overrides: str) -> tuple[str, str]:
    config, why = choose(load_config("qwen3_4b_asym", overrides), machine)
    engine, backend = config.rollout.engine, config.policy.backend
    assert why.startswith(f"rollouts: {engine} (") and f"; policy: {backend} (" in why
    return engine, backend


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (here(), ("hf", "local")),
        (here(vllm=False, deepspeed=False), ("hf", "local")),
        (here(processes=2), ("hf", "deepspeed")),
        (here(gpus=1), ("vllm", "deepspeed")),
        (here(gpus=4, processes=4), ("vllm", "deepspeed")),
        (here(gpus=8, processes=16, nodes=2), ("vllm", "deepspeed")),
        (here(gpus=8, processes=8, vllm=False), ("hf", "deepspeed")),
        (here(gpus=1, deepspeed=False), ("vllm", "local")),
    ],
)
def test_the_default_is_what_the_machine_has(machine, expected) -> None:
    assert chosen(machine) == expected


def test_what_is_asked_for_is_taken() -> None:
    assert chosen(here(), "rollout.engine=vllm", "policy.backend=deepspeed") == (
        "vllm",
        "deepspeed",
    )
    assert chosen(here(gpus=1), "rollout.engine=hf", "policy.backend=local") == ("hf", "local")


@pytest.mark.parametrize(
    ("machine", "overrides", "part"),
    [
        (here(processes=2), ["policy.backend=local"], "--num_processes 1"),
        (here(vllm=False), ["rollout.engine=vllm"], "vLLM is not installed"),
        (here(deepspeed=False), ["policy.backend=deepspeed"], "=deepspeed requires DeepSpeed"),
        (here(processes=2, deepspeed=False), [], "on 2 processes requires DeepSpeed"),
        (here(processes=4, gpus=2), [], "4 processes .* on 2 GPUs, .* --num_processes 2 or"),
        (here(processes=8, gpus=2, nodes=2), [], "4 processes .* 2 GPUs of this node, .* 4 or"),
        (here(), ["rollout.tensor_parallel=2"], "rollout.tensor_parallel"),
        (here(), ["policy.offload_optimizer=true"], "policy.offload_optimizer"),
        (here(), ["policy.liger_kernel=true"], "requires a GPU, and this machine has none"),
        (here(gpus=1), ["policy.liger_kernel=true"], "requires the package liger-kernel"),
    ],
)
def test_what_cannot_be_is_one_sentence(machine, overrides, part) -> None:
    with pytest.raises(UserError, match=part):
        choose(load_config("qwen3_4b_asym", overrides), machine)


@pytest.mark.parametrize("model", ["pocket", "pocket_short", "pocket_math_smoke", "smollm2_135m"])
def test_laptop_scale_runs_use_hf_and_local_on_gpus_too(model: str) -> None:
    """Two of them fit on one GPU, where an engine of vLLM takes 0.7 of the memory by itself."""
    config, _ = choose(load_config(model), here(gpus=4))
    assert (config.rollout.engine, config.policy.backend) == ("hf", "local")


def test_no_launcher_is_a_world_of_one(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    world = from_environment()
    assert world == World() and world.first and world.leads
    assert world.gather("mine") == ["mine"]


@given(st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 30))
def test_every_request_is_generated_by_one_engine(engines, tensor_parallel, count) -> None:
    size = engines * tensor_parallel
    items = list(range(count))
    worlds = [World(rank=r, size=size, tensor_parallel=tensor_parallel) for r in range(size)]
    leaders = [world for world in worlds if world.leads]
    assert len(leaders) == engines
    assert sorted(item for world in leaders for item in world.share(items)) == items
    for world in worlds:  # behind one engine all are asked the same
        leader = world.rank // tensor_parallel * tensor_parallel
        assert world.share(items) == worlds[leader].share(items)


def test_weights_of_an_evaluation_are_compared_on_the_gpu(model_folder, monkeypatch) -> None:
    """The device is made up: what would move to it stays where it is, and is noted."""
    model = ModelConfig(path=str(model_folder))
    engine = HFEngine(load_model(model, torch.float32), str, 8)
    names = [name for name, _ in engine.model.named_parameters()]
    moved, to = [], torch.Tensor.to

    def note(tensor: torch.Tensor, *where: Any, **how: Any) -> torch.Tensor:
        if where != ("cuda",):
            return to(tensor, *where, **how)
        moved.append(tensor.shape)
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", note)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    load_pretrained_weights(engine, model)
    assert len(moved) == len(names)


SHARING = ("rollout.engine=hf", "policy.backend=local", "policy.dtype=float32")


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ((), True),
        (("policy.dtype=bfloat16",), False),
        (("policy.backend=deepspeed",), False),
        (("policy.lora.rank=4",), False),
    ],
    ids=str,
)
def test_a_policy_trains_the_engines_model_where_both_need_the_same_weights(
    model_folder, overrides, shares
) -> None:
    config = load_config("pocket_grpo", (f"model.path={model_folder}", *SHARING, *overrides))
    engine = HFEngine(load_model(config.model, torch.float32), str, 8)
    model = model_to_share(engine, config)
    assert (model is engine.model) == shares and (model is None) == (not shares)


def test_an_engine_that_shares_the_policys_model_generates_with_its_present_weights(
    model_folder,
) -> None:
    config = load_config("pocket_grpo", (f"model.path={model_folder}", *SHARING))
    engine = HFEngine(load_model(config.model, torch.float32), str, 8)
    policy = build_policy(config, from_environment(), model_to_share(engine, config))
    addresses = {name: weight.data_ptr() for name, weight in policy.named_weights()}
    assert addresses == {name: weight.data_ptr() for name, weight in engine.weights.items()}
    with torch.no_grad():
        for _, weight in policy.named_weights():
            weight.mul_(1.5)
    before = {name: weight.clone() for name, weight in policy.named_weights()}
    engine.load_weights(policy.named_weights())
    check_weights_arrived(engine, policy.named_weights())
    assert all(torch.equal(before[name], weight) for name, weight in engine.weights.items())
