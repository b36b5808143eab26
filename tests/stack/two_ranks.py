"""Tests of two ranks that share a ZeRO-3 policy and have a vLLM engine each.

test_ranks.py launches two processes, which run these tests at the same time. Engines are slow to
open, so all tests share one, with the tiny model.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train
from asymrl.algo.batch import engine_logprobs, tokenise
from asymrl.engines.distributed import World, from_environment, join
from asymrl.engines.hf import HFEngine
from asymrl.engines.rollout import fingerprint
from asymrl.engines.vllm import VLLMEngine, open_llm
from asymrl.errors import ReportedByRankZero, UserError
from asymrl.run import checkpoint
from asymrl.run.checkpoint import state_file
from asymrl.training.loop import sync_weights
from asymrl.training.rollout import generate_and_verify
from asymrl.types import Sampling
from asymrl.verifiers import make as make_verifier
from tests.helpers.engines import STOP, VOCABULARY, by_key, decode, dense_values, requests
from tests.helpers.full_disk import largest_file
from tests.helpers.models import tiny_model
from tests.helpers.policies import (
    LOSS,
    MIXED,
    adapted_model,
    close,
    gradients,
    loss_named,
    rollout_batch,
    sharded,
)
from tests.helpers.policies import policy as local_policy

SAMPLING = Sampling(temperature=0.8, top_p=1.0, top_k=0, max_tokens=12, stop_ids=(STOP, 8))
pytestmark = pytest.mark.filterwarnings("ignore:.*reduce_op.*:FutureWarning")


@pytest.fixture(scope="session")
def world() -> World:
    world = from_environment()
    assert world.size == 2
    join(world)
    return world


@pytest.fixture(scope="session")
def engine(world, tmp_path_factory) -> VLLMEngine:
    folder = tmp_path_factory.mktemp("tiny")
    if world.first:
        tiny_model(VOCABULARY, STOP).save_pretrained(folder)
    folder = world.gather(folder)[0]
    settings: dict[str, Any] = {"max_model_len": 256, "max_rows": 64, "dtype": torch.float32}
    return VLLMEngine(open_llm(str(folder), world=world, **settings), decode)


@pytest.fixture(scope="module")
def policy():
    return sharded(token_budget=40)


class Corrupting:
    """A policy that sends one tensor with one changed entry, on its first send only."""

    def __init__(self, policy: Any, name: str) -> None:
        self.policy, self.name, self.sent = policy, name, 0

    def sleep(self) -> None:
        self.policy.sleep()

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        self.sent += 1
        for name, tensor in self.policy.named_weights():
            if name == self.name and self.sent == 1:  # the sync, not the check after it
                tensor = tensor.clone()
                tensor.view(-1)[3] += 1e-3
            yield name, tensor


NAMES = ["model.embed_tokens.weight", "model.layers.1.self_attn.v_proj.weight", "model.norm.weight"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_changes_on_its_way_raises_an_error_that_names_it(
    policy, engine, name
) -> None:
    with pytest.raises(RuntimeError, match=name.replace(".", r"\.")):
        sync_weights(Corrupting(policy, name), engine, check=True)  # pyright: ignore[reportArgumentType]
    sync_weights(policy, engine, check=True)


def test_an_engine_does_not_generate_after_a_failed_sync(policy, engine) -> None:
    def failing():
        for number, pair in enumerate(policy.named_weights()):
            if number == 5:
                raise KeyError("connection lost")
            yield pair

    with pytest.raises(KeyError):
        engine.load_weights(failing())
    with pytest.raises(RuntimeError, match="no weights"):
        list(engine.generate(requests(), SAMPLING))
    sync_weights(policy, engine, check=True)
    assert len(list(engine.generate(requests(), SAMPLING))) == 30


def test_policy_vllm_and_transformers_agree_on_logprobs_after_an_update(
    policy, engine, world
) -> None:
    policy.update(rollout_batch(MIXED), LOSS)
    sync_weights(policy, engine, check=True)
    weights = {name: tensor.clone() for name, tensor in policy.named_weights()}
    model = tiny_model(VOCABULARY, STOP)
    HFEngine(model, decode, 64).load_weights(iter(weights.items()))
    batch_requests = requests()
    for rollout in engine.generate(batch_requests, SAMPLING):
        dense, _ = dense_values(model, rollout, batch_requests[rollout.draw - 40], 0.8)
        torch.testing.assert_close(torch.tensor(rollout.engine_logprobs), dense, atol=1e-4, rtol=0)
    batch = rollout_batch(MIXED)
    for r, sequence in enumerate(batch.sequences):
        ids, start = torch.tensor([list(sequence)]), int(batch.prompt_lengths[r])
        with torch.no_grad():
            dense = (model(input_ids=ids).logits[0, start - 1 : -1] / 0.8).log_softmax(-1)
        chosen = dense.gather(1, ids[0, start:, None])[:, 0]
        torch.testing.assert_close(
            policy.score(batch)[0][batch.row == r], chosen, atol=1e-4, rtol=0
        )


def test_vllm_computes_with_the_adapters_merged(engine) -> None:
    """Sharded over two ranks, synced and checked, before and after an update."""
    adapted, batch_requests = sharded(adapted_model(), token_budget=40), requests()
    for _ in range(2):
        sync_weights(adapted, engine, check=True)
        rollouts = sorted(
            engine.generate(batch_requests, SAMPLING), key=lambda r: (r.draw, r.sample)
        )
        logprobs, _ = adapted.score(tokenise(batch_requests, rollouts))
        torch.testing.assert_close(engine_logprobs(rollouts), logprobs, atol=1e-4, rtol=0)
        adapted.update(rollout_batch(MIXED), LOSS)


def test_gathered_weights_do_not_depend_on_the_size_of_the_bucket(
    policy, world, monkeypatch
) -> None:
    from asymrl.engines import deepspeed

    whole = {name: tensor.clone() for name, tensor in policy.named_weights()}
    for size in (1, 1500):
        monkeypatch.setattr(deepspeed, "GATHER_BUCKET", size)
        tensors = dict(policy.named_weights())  # kept beyond their bucket, as in vLLM
        assert list(tensors) == list(whole)
        assert all(torch.equal(tensors[name], whole[name]) for name in whole)
    prints = world.gather({name: fingerprint(tensor) for name, tensor in whole.items()})
    assert prints[0] == prints[1]


def test_each_rank_generates_a_share_and_all_ranks_receive_all_rollouts(
    engine, policy, world
) -> None:
    sync_weights(policy, engine, check=False)
    all_requests = requests(count=5)
    with make_verifier("exact") as verifier:
        rollouts, verdicts = generate_and_verify(
            all_requests, engine=engine, verifier=verifier, sampling=SAMPLING, world=world
        )
    assert [(r.draw, r.sample) for r in rollouts] == [
        (40 + n, i) for n in range(5) for i in range(6)
    ]
    assert len(verdicts) == 30
    first, second = world.gather((rollouts, verdicts))
    assert first == second
    mine = by_key(engine.generate(world.share(all_requests), SAMPLING))
    assert {r.draw for r in mine.values()} == {40 + n for n in range(5) if n % 2 == world.rank}


def test_a_rank_without_requests_takes_part_in_collective_calls(engine, policy, world) -> None:
    with make_verifier("exact") as verifier:
        rollouts, _ = generate_and_verify(
            requests(count=1), engine=engine, verifier=verifier, sampling=SAMPLING, world=world
        )
    assert len(rollouts) == 6


def run(config_file: Path, folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """Run train.py on two ranks -> its metrics, on both."""
    world = from_environment()
    shared = world.gather((str(config_file), str(folder)))[0]
    arguments = ["--config", shared[0], "--output-dir", shared[1], *overrides]
    assert train.main(arguments) == 0
    world.gather(None)
    lines = (Path(shared[1]) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def same_metrics(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    names = [n for n in theirs if n.split("/")[0] not in ("time", "perf")]
    return all(mine[n] == pytest.approx(theirs[n], rel=1e-3, abs=1e-4) for n in names)


def run_alone(config_file: Path, folder: Path, *overrides: str) -> list[dict[str, Any]] | None:
    """Run train.py on rank 0 as a single process -> its metrics, on both."""
    rows = None
    if from_environment().first:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
                patch.delenv(name)
            alone = ["--config", str(config_file), "--output-dir", str(folder)]
            assert train.main([*alone, *overrides]) == 0
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return from_environment().gather(rows)[0]


KL = ("loss.kl_coef=0.05", "optim.minibatch_prompts=6")


@pytest.mark.parametrize("settings", [(), KL], ids=["plain", "kl"])
def test_two_ranks_train_like_one_process(config_file, tmp_path, world, settings) -> None:
    """With hf, a sample depends on its seed and the weights only, so both get the same rollouts."""
    ours = run(config_file, tmp_path / "two", "steps=3", *settings)
    theirs = run_alone(config_file, tmp_path / "one", "steps=3", *settings)
    assert theirs and len(ours) == len(theirs) == 4
    assert all(same_metrics(mine, one) for mine, one in zip(ours, theirs, strict=True))


def test_adapters_move_from_two_ranks_to_one_process_and_back(config_file, tmp_path, world) -> None:
    """Loaded sharded, as a large model is, and with a penalty on the KL to the frozen weights."""
    settings = (*KL, "policy.lora.rank=4", "optim.lr=0.02")
    folder = from_environment().gather(tmp_path)[0] / "moving"
    run(config_file, folder, "steps=1", *settings)
    run_alone(config_file, folder, "steps=2", *settings)
    ours = run(config_file, folder, "steps=3", *settings)
    theirs = run_alone(config_file, tmp_path / "one", "steps=3", *settings)
    assert theirs and len(ours) == len(theirs) == 4
    assert all(same_metrics(mine, one) for mine, one in zip(ours, theirs, strict=True))
    assert theirs[-1]["loss/kl"] > 1e-4


def test_two_ranks_fill_the_batches_of_one_process_and_resume(config_file, tmp_path, world) -> None:
    """Dynamic sampling: the same rounds and leftovers, which the second launch finds on disk."""
    keep = ["rollout.dynamic_sampling={leftover: keep}", "seed=3"]
    run(config_file, tmp_path / "two", *keep, "steps=2")
    ours = run(config_file, tmp_path / "two", *keep, "steps=3")
    theirs = run_alone(config_file, tmp_path / "one", *keep, "steps=3")
    assert theirs and len(ours) == len(theirs) == 4
    assert theirs[2]["dynamic_sampling/kept"] > 0
    assert any(row["dynamic_sampling/rounds"] > 1 for row in theirs[1:])
    names = {name for name in theirs[3] if name.startswith("dynamic_sampling/")}
    for mine, one in zip(ours[1:], theirs[1:], strict=True):
        assert {name: mine[name] for name in names} == {name: one[name] for name in names}
        same = {name for name in one if not name.startswith("eval/")}
        assert same_metrics(mine, {name: one[name] for name in same})


@pytest.mark.parametrize("full", [0, 1])
def test_a_disk_that_is_full_for_one_rank_ends_both_and_damages_no_checkpoint(
    config_file, tmp_path, world, capsys, full
) -> None:
    config, parent = world.gather((str(config_file), tmp_path))[0]
    folder = parent / "run"
    run(config, folder, "steps=1")
    arguments = ["--config", config, "--output-dir", str(folder), "steps=2"]
    with largest_file(30_000) if world.rank == full else nullcontext():
        assert train.main(arguments) == 2
    printed = capsys.readouterr().err
    assert ("step-000002 could not be written" in printed) == world.first
    assert "still step-000001" in printed or not world.first
    saved = checkpoint.latest(folder)
    assert saved and saved.name == "step-000001"
    checkpoint.check_digests(saved, world)
    assert not list(folder.glob("checkpoints/.*"))
    world.gather(None)
    assert [row["step"] for row in run(config, folder, "steps=2")] == [0, 1, 2]


def test_each_rank_saves_its_own_half_of_the_state(config_file, tmp_path, world) -> None:
    folder = world.gather(tmp_path)[0] / "run"
    run(config_file, folder, "steps=1")
    sizes = [
        (folder / "checkpoints/latest" / state_file(rank, 2)).stat().st_size for rank in (0, 1)
    ]
    model = (folder / "checkpoints/latest/model.safetensors").stat().st_size  # fp32 weights
    assert all(abs(size / model - 1.5) < 0.1 for size in sizes)


def test_only_rank_0_prints_an_error(config_file, tmp_path, world, capsys) -> None:
    folder = world.gather(str(tmp_path))[0]
    if world.first:
        (Path(folder) / "run").write_text("a file")
    world.gather(None)
    arguments = ["--config", str(config_file), "--output-dir", f"{folder}/run"]
    assert train.main(arguments) == 2
    assert ("is a file" in capsys.readouterr().err) == world.first


def test_what_rank_0_finds_holds_on_every_rank(world) -> None:
    assert world.from_rank_zero(lambda: world.rank) == 0

    def missing() -> int:
        raise UserError("nothing here")

    with pytest.raises(UserError if world.first else ReportedByRankZero, match="nothing here"):
        world.from_rank_zero(missing)


def test_an_error_on_rank_0_ends_every_rank_and_is_printed_once(
    config_file, tmp_path, world, capsys
) -> None:
    config, parent = world.gather((str(config_file), tmp_path))[0]
    folder = parent / "run"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        if world.first:
            fcntl.flock(lock, fcntl.LOCK_EX)
        world.gather(None)
        assert train.main(["--config", config, "--output-dir", str(folder)]) == 2
        world.gather(None)
    printed = capsys.readouterr().err
    assert "another process is training" in printed if world.first else not printed


@pytest.mark.parametrize("name", ["gspo", "clip_cov", "kl_cov"])
def test_a_loss_with_statistics_of_rows_or_the_minibatch_has_the_gradient_of_one_process(
    name: str,
) -> None:
    batch, theirs = rollout_batch(MIXED, 1.0), local_policy()
    ours = sharded(token_budget=30, micro_batch_cost=10)
    stats, expected = (one.update(batch, loss_named(name)) for one in (ours, theirs))
    assert close(gradients(ours), gradients(theirs))
    assert stats.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)


def test_tensor_parallel_must_divide_the_world_size() -> None:
    with pytest.raises(UserError, match="tensor_parallel = 3"):
        from_environment(3)


FREED_AFTER_USE = {
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 3000,
    "stage3_prefetch_bucket_size": 3000,
    "reduce_bucket_size": 5000,
}
"""A layer's weights are freed after its forward pass and gathered again for its backward pass, and
gradients are reduced in small buckets: as in a model of billions of parameters."""


@pytest.mark.parametrize(("bf16", "checkpointing"), [(False, True), (True, False)])
def test_parameters_gathered_twice_a_pass_give_the_same_updates(
    bf16: bool, checkpointing: bool
) -> None:
    """Over a whole step: sleep, sync, score, update, score."""

    def six_layers() -> Any:
        return tiny_model(VOCABULARY, STOP, layers=6)

    settings = {"bf16": bf16, "gradient_checkpointing": checkpointing, "token_budget": 40}
    freed = sharded(six_layers(), FREED_AFTER_USE, **settings)
    other = sharded(six_layers(), **settings) if bf16 else local_policy(six_layers(), **settings)
    batch = rollout_batch(MIXED)
    for _ in range(2):
        values = []
        for trained in (freed, other):
            trained.sleep()
            synced = {name: tensor.clone() for name, tensor in trained.named_weights()}
            before, _ = trained.score(batch)
            trained.update(batch, LOSS)
            values.append((before, trained.score(batch)[0], gradients(trained), synced))
        (before, after, gradient, weights), theirs = values
        assert close(before, theirs[0]) and close(after, theirs[1])
        assert close(gradient, theirs[2], tolerance=1e-6 if bf16 else 5e-6)
        assert all(close(weights[name], theirs[3][name]) for name in weights)
