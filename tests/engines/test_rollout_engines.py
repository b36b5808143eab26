"""The contract of every rollout engine, and what the hf engine promises beyond it."""

from dataclasses import replace

import pytest
import torch

from asymrl.engines.hf import (
    CPU_LOGITS,
    HFEngine,
    filter_top_k_top_p,
    first_above,
    inverse_cdf,
    sample_tokens,
)
from asymrl.engines.hf import VOCABULARY_BLOCK as BLOCK
from asymrl.engines.kv_cache import GrowingCache
from asymrl.engines.rollout import fingerprint, uniforms
from asymrl.engines.scripted import ScriptedEngine
from asymrl.errors import UserError
from asymrl.types import Request, derive_seed
from tests.helpers.engine_contract import EngineContract
from tests.helpers.engines import (
    SAMPLING,
    STOP,
    VOCABULARY,
    by_key,
    decode,
    dense_values,
    hf,
    requests,
)
from tests.helpers.models import convolving_model, tiny_model
from tests.helpers.policies import policy


def scripted() -> ScriptedEngine:
    def script(request: Request, sample: int) -> list[int]:
        return [request.draw % 5 + 1] * (3 * sample) + [STOP]

    return ScriptedEngine(script, decode)


@pytest.mark.parametrize(
    "engine", [hf(), hf(max_rows=7), scripted()], ids=["hf", "hf7", "scripted"]
)
class TestContract(EngineContract):
    """The hf and the scripted engine keep it."""


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_hf_values_equal_a_full_forward_pass(temperature: float) -> None:
    engine, batch = hf(), requests()
    for rollout in engine.generate(batch, replace(SAMPLING, temperature=temperature)):
        dense = dense_values(engine.model, rollout, batch[rollout.draw - 40], temperature)
        values = rollout.engine_logprobs, rollout.engine_entropy
        for actual, expected in zip(values, dense, strict=True):
            torch.testing.assert_close(torch.tensor(actual), expected, atol=2e-5, rtol=1e-5)


def test_hf_samples_from_a_model_that_a_policy_trains_with_layer_checkpointing() -> None:
    engine, batch = hf(), requests()
    policy(engine.model, gradient_checkpointing=True)
    for rollout in engine.generate(batch, SAMPLING):
        dense, _ = dense_values(engine.model, rollout, batch[rollout.draw - 40], 1.0)
        logprobs = torch.tensor(rollout.engine_logprobs)
        torch.testing.assert_close(logprobs, dense, atol=2e-5, rtol=1e-5)


def test_hf_does_not_support_models_that_cache_more_than_keys_and_values() -> None:
    with pytest.raises(UserError, match="lfm2"):
        HFEngine(convolving_model(VOCABULARY), decode, 8)


def test_hf_tokens_do_not_depend_on_the_rest_of_the_batch() -> None:
    engine = hf()
    together = by_key(engine.generate(requests(), SAMPLING))
    for request in requests():
        for alone in engine.generate([request], SAMPLING):
            assert alone.token_ids == together[alone.draw, alone.sample].token_ids
    fewer = by_key(engine.generate(requests(samples=2), SAMPLING))
    assert all(together[key].token_ids == rollout.token_ids for key, rollout in fewer.items())


def test_hf_samples_each_token_with_the_next_uniform_of_its_stream() -> None:
    engine, batch = hf(), requests()
    for rollout in engine.generate(batch, SAMPLING):
        request = batch[rollout.draw - 40]
        ids = torch.tensor([request.problem.prompt_ids + rollout.token_ids])
        with torch.no_grad():
            logits = engine.model(input_ids=ids).logits[0, len(request.problem.prompt_ids) - 1 : -1]
        cdf = logits.double().softmax(-1).cumsum(-1)
        stream = uniforms(request.seed, rollout.sample, len(rollout.token_ids))
        expected = torch.searchsorted(cdf, stream[:, None], right=True)[:, 0]
        assert tuple(expected.tolist()) == rollout.token_ids


def test_hf_tokens_depend_on_seed_and_sample() -> None:
    responses = {r.token_ids for r in hf().generate(requests(1, 30), SAMPLING)}
    assert len(responses) > 20
    other = replace(requests(1, 30)[0], seed=1)
    assert {r.token_ids for r in hf().generate([other], SAMPLING)} != responses


def test_hf_greedy_returns_the_most_likely_token() -> None:
    engine, batch = hf(), requests(3, 2)
    for rollout in engine.generate(batch, replace(SAMPLING, temperature=0.0)):
        ids = torch.tensor([batch[rollout.draw - 40].problem.prompt_ids + rollout.token_ids])
        with torch.no_grad():
            logits = engine.model(input_ids=ids).logits[0, :-1]
        most_likely = logits[-len(rollout.token_ids) :].argmax(-1)
        assert tuple(most_likely.tolist()) == rollout.token_ids


def test_sampling_follows_the_distribution() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 6).expand(40000, 6)
    token, values = sample_tokens(logits, uniforms(3, 0, 40000), SAMPLING)
    probs = logits[0].softmax(-1)
    seen = torch.bincount(token, minlength=6) / 40000
    torch.testing.assert_close(seen, probs, atol=0.01, rtol=0)
    torch.testing.assert_close(values[:, 0], probs.log()[token])


def test_a_token_of_probability_zero_is_never_sampled() -> None:
    logits = torch.tensor([[-200.0, 0.0, -200.0, 0.0, -200.0]])
    edges = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    token, _ = sample_tokens(logits.expand(3, 5), edges, SAMPLING)
    assert token.tolist() == [1, 3, 3]


@pytest.mark.parametrize(
    "vocabulary",
    [
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        3 * BLOCK,
        2 * BLOCK + 200,
    ],
)
def test_searching_by_block_finds_the_same_token_as_one_cumulative_sum(vocabulary: int) -> None:
    torch.manual_seed(0)
    weights = (3 * torch.randn(400, vocabulary)).exp()
    uniform = uniforms(5, 0, 400)
    cdf = weights.double().cumsum(-1)
    plain = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True)[:, 0]
    assert torch.equal(inverse_cdf(weights, uniform), plain)


def test_a_share_that_rounding_made_1_still_selects_an_entry_with_mass() -> None:
    masses = torch.tensor([[0.0, 0.7, 0.1, 0.0]], dtype=torch.float64)
    index, within = first_above(masses, torch.ones(1, 1, dtype=torch.float64))
    assert index.item() == 2 and within.item() == pytest.approx(1)


def test_a_token_of_weight_zero_is_never_selected_in_any_block() -> None:
    chosen = [
        3,
        BLOCK,
        2 * BLOCK + 9,
    ]  # blocks 0 to 2 of 4, and nothing after
    weights = torch.zeros(1, 3 * BLOCK + 5).index_fill(1, torch.tensor(chosen), 0.3)
    edges = torch.tensor([0.0, 0.3333, 0.3334, 0.6666, 0.6667, 1 - 2**-53], dtype=torch.float64)
    tokens = inverse_cdf(weights.expand(6, -1), edges)
    assert tokens.tolist() == [chosen[0]] * 2 + [chosen[1]] * 2 + [chosen[2]] * 2


def test_a_row_is_sampled_the_same_alone_and_in_a_batch_that_is_processed_in_parts() -> None:
    torch.manual_seed(0)
    vocabulary = CPU_LOGITS // 4
    logits, uniform = torch.randn(9, vocabulary), uniforms(1, 0, 9)
    token, values = sample_tokens(logits, uniform, SAMPLING)
    for row in range(9):
        alone = sample_tokens(logits[row : row + 1], uniform[row : row + 1], SAMPLING)
        assert alone[0] == token[row]
        torch.testing.assert_close(alone[1][0], values[row], atol=2e-5, rtol=0)
    exact = logits.double().log_softmax(-1)
    entropy = -(exact.exp() * exact).sum(-1)
    torch.testing.assert_close(values[:, 1].double(), entropy, atol=1e-5, rtol=0)


def test_running_rows_keep_their_keys_and_values_while_finished_rows_leave() -> None:
    torch.manual_seed(0)
    cache, rows = GrowingCache(), 7
    first = torch.randn(3, 2, 5, 4)
    cache.update(first, -first, 0)
    index = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    cache.repeat_rows(index)
    expected = first[index]
    for step in range(30):
        new = torch.randn(rows, 2, 1, 4)
        keys, values = cache.update(new, -new, 0)
        expected = torch.cat([expected, new], dim=2)
        assert torch.equal(keys, expected) and torch.equal(values, -expected)
        if step in (4, 17):
            finished = torch.zeros(rows, dtype=torch.bool)
            finished[[0, 3] if step == 4 else [1, rows - 1]] = True
            order = cache.drop_rows(finished)
            assert sorted(order.tolist()) == torch.nonzero(~finished)[:, 0].tolist()
            expected, rows = expected[order], len(order)
    assert rows == 3


@pytest.mark.parametrize(
    ("top_p", "top_k", "expected"),
    [(1.0, 0, [0, 1, 2, 3]), (1.0, 2, [1, 2]), (0.69, 0, [1, 2]), (0.71, 0, [0, 1, 2])],
)
def test_top_p_and_top_k_keep_the_most_likely_tokens(
    top_p: float, top_k: int, expected: list[int]
) -> None:
    probs = torch.tensor([[0.2, 0.3, 0.4, 0.1]], dtype=torch.float64)
    filtered = filter_top_k_top_p(probs, replace(SAMPLING, top_p=top_p, top_k=top_k))
    assert filtered[0].nonzero()[:, 0].tolist() == expected


def test_every_sample_has_its_own_stream_of_uniforms() -> None:
    assert torch.equal(uniforms(1, 2, 8), uniforms(1, 2, 8))
    assert torch.equal(uniforms(1, 2, 8)[:3], uniforms(1, 2, 3))
    assert not torch.equal(uniforms(1, 2, 8), uniforms(1, 3, 8))
    assert derive_seed(1, 23) != derive_seed(12, 3)


@pytest.mark.parametrize("change", ["value", "swap", "sign"])
def test_a_fingerprint_changes_with_a_small_change(change: str) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(30, 40)
    other = tensor.clone()
    match change:
        case "value":
            other[3, 4] += 1e-3
        case "swap":
            other[[2, 5]] = other[[5, 2]]
        case "sign":
            other[7, 7] *= -1
    assert abs(fingerprint(tensor) - fingerprint(other)) > 1e-6


def test_loading_incomplete_weights_raises_an_error() -> None:
    model = tiny_model(VOCABULARY, STOP, seed=5)
    some = list(model.named_parameters())[:-1]
    with pytest.raises(AssertionError, match="did not send"):
        hf().load_weights((name, p.detach()) for name, p in some)
