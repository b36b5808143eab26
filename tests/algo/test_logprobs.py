"""Tiled log-probs and entropy against a plain computation from full logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asymrl.algo import logprobs as module
from asymrl.algo.logprobs import bounded_tile, logprobs_and_entropy, tile_shape

M, V, D = 7, 11, 5


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, generator=generator, dtype=torch.float64).to(dtype)
    head = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(V, (M,), generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), targets


def plain(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logp = torch.log_softmax(hidden @ head.T / temperature, dim=1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(1)


def gradients(outputs: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of a sum with a different weight for each output."""
    logprobs, entropy = outputs
    weights = torch.arange(1, len(logprobs) + 1).to(logprobs)
    return torch.autograd.grad(weights @ logprobs - 0.3 * (weights**2 @ entropy), inputs)


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (3, 11), (7, 4), (100, 100), None])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7])
def test_values_and_gradients_match_full_logits(tile, temperature):
    hidden, head, targets = example()
    got = logprobs_and_entropy(hidden, head, targets, temperature=temperature, tile=tile)
    expected = plain(hidden, head, targets, temperature)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        gradients(got, (hidden, head)),
        gradients(expected, (hidden, head)),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.slow
@pytest.mark.parametrize("tile", [(1, 4), (3, 11), (7, 5)])
def test_gradcheck(tile):
    hidden, head, targets = example()

    def function(hidden: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        return logprobs_and_entropy(hidden, head, targets, temperature=0.7, tile=tile)

    assert torch.autograd.gradcheck(function, (hidden, head))


@pytest.mark.parametrize("output", [0, 1])
def test_each_output_alone_has_the_right_gradient(output):
    hidden, head, targets = example()
    got = logprobs_and_entropy(hidden, head, targets, temperature=0.7, tile=(3, 4))[output]
    expected = plain(hidden, head, targets, 0.7)[output]
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), (hidden, head)),
        torch.autograd.grad(expected.sum(), (hidden, head)),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_the_gradient_of_one_input_is_right_if_the_other_is_frozen(frozen):
    hidden, head, targets = example()
    free = head if frozen == "hidden" else hidden
    (hidden if frozen == "hidden" else head).requires_grad_(False)
    got = gradients(logprobs_and_entropy(hidden, head, targets, temperature=0.7), (free,))
    expected = gradients(plain(hidden, head, targets, 0.7), (free,))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_a_frozen_input_costs_no_matrix_product(frozen, monkeypatch):
    hidden, head, targets = example()
    (hidden if frozen == "hidden" else head).requires_grad_(False)
    shapes = []
    product = module._product

    def record(out: Tensor, left: Tensor, right: Tensor, **factors: float) -> None:
        shapes.append((*left.shape, right.shape[1]))
        product(out, left, right, **factors)

    monkeypatch.setattr(module, "_product", record)
    logprobs_and_entropy(hidden, head, targets, temperature=1.0)[0].sum().backward()
    assert shapes[:2] == [(M, D, V), (M, D, V)]
    assert shapes[2:] == [(V, M, D) if frozen == "hidden" else (M, V, D)]


def test_an_unused_entropy_costs_nothing(monkeypatch):
    hidden, head, targets = example()
    entropy_coefficients = []
    logits_gradient = module._logits_gradient

    def record(*args):
        entropy_coefficients.append(args[2])
        return logits_gradient(*args)

    monkeypatch.setattr(module, "_logits_gradient", record)
    logprobs_and_entropy(hidden, head, targets, temperature=1.0)[0].sum().backward()
    assert entropy_coefficients == [None]


def test_the_head_may_be_freed_between_forward_and_backward():
    """ZeRO-3 frees a gathered weight after a module's forward and gathers it for its backward."""
    hidden, head, targets = example()
    expected = gradients(plain(hidden, head, targets, 0.7), (hidden, head))
    got = logprobs_and_entropy(hidden, head, targets, temperature=0.7, tile=(3, 4))
    gathered, head.data = head.data, torch.empty(0, dtype=head.dtype)
    head.data = gathered.clone()
    gathered.zero_()
    torch.testing.assert_close(gradients(got, (hidden, head)), expected, rtol=0, atol=1e-10)


def test_no_graph_under_no_grad():
    hidden, head, targets = example()
    with torch.no_grad():
        got = logprobs_and_entropy(hidden, head, targets, temperature=1.0)
    assert not any(value.requires_grad for value in got)


def test_no_tokens_give_empty_results_and_zero_gradients():
    hidden, head, targets = example()
    hidden = hidden[:0].detach().requires_grad_()
    got = logprobs_and_entropy(hidden, head, targets[:0], temperature=1.0)
    grad_hidden, grad_head = gradients(got, (hidden, head))
    assert got[0].shape == got[1].shape == (0,)
    assert grad_hidden.shape == (0, D)
    assert torch.equal(grad_head, torch.zeros_like(head))


def test_bf16_inputs_lose_precision_only_by_rounding_the_gradients():
    hidden, head, targets = example(torch.bfloat16)
    got = logprobs_and_entropy(hidden, head, targets, temperature=0.7, tile=(3, 4))
    wide = (hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_())
    expected = plain(wide[0], wide[1], targets, 0.7)
    assert got[0].dtype == got[1].dtype == torch.float32
    for value, exact in zip(got, expected, strict=True):  # far below bf16's 2^-8
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
    for slope, exact in zip(gradients(got, (hidden, head)), gradients(expected, wide), strict=True):
        assert slope.dtype == torch.bfloat16
        assert (slope.double() - exact).norm() < 4e-3 * exact.norm()


def test_the_gradient_of_a_bf16_head_is_accumulated_in_fp32():
    """1 + 255 * 2^-9 is 1.498; accumulated in bf16, every sum would round back to 1."""
    size = 256
    hidden = torch.full((size, 1), 2.0**-9).bfloat16()
    hidden[0] = 1
    head = torch.zeros(2, 1).bfloat16().requires_grad_()  # pi = (1/2, 1/2) everywhere
    targets = torch.zeros(size, dtype=torch.long)
    got = logprobs_and_entropy(hidden, head, targets, temperature=1.0, tile=(1, 2))[0]
    (slope,) = torch.autograd.grad(got.sum(), head)
    expected = (1 + (size - 1) * 2.0**-9) / 2
    assert slope[0].item() == pytest.approx(expected, rel=2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    hidden, head, targets = example(dtype)
    outside = logprobs_and_entropy(hidden, head, targets, temperature=0.7)
    expected = gradients(outside, (hidden, head))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = logprobs_and_entropy(hidden, head, targets, temperature=0.7)
        logprobs, entropy = inside
        weights = torch.arange(1, M + 1).to(logprobs)
        loss = (weights * logprobs).sum() - 0.3 * (weights**2 * entropy).sum()
        got = torch.autograd.grad(loss, (hidden, head))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 2**-7, atol=1e-5)


def test_mixed_dtypes_are_computed_in_the_wider_dtype():
    hidden, head, targets = example(torch.float32)
    narrow = head.detach().bfloat16().requires_grad_()
    got = logprobs_and_entropy(hidden, narrow, targets, temperature=0.7)
    expected = plain(hidden, narrow.float(), targets, 0.7)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    grad_hidden, grad_head = gradients(got, (hidden, narrow))
    assert (grad_hidden.dtype, grad_head.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_matches_fp64(dtype):
    hidden, head, targets = (x.detach().cuda() for x in example(dtype))
    hidden, head = hidden.requires_grad_(), head.requires_grad_()
    got = logprobs_and_entropy(hidden, head, targets, temperature=0.7, tile=(3, 4))
    wide = (hidden.detach().double().requires_grad_(), head.detach().double().requires_grad_())
    expected = plain(wide[0], wide[1], targets, 0.7)
    for value, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
    for slope, exact in zip(gradients(got, (hidden, head)), gradients(expected, wide), strict=True):
        assert (slope.double() - exact).norm() < 1e-2 * exact.norm()


def test_uniform_and_deterministic_distributions_are_exact():
    head = torch.eye(V, dtype=torch.float64)
    hidden = torch.stack([torch.zeros(V), 1e5 * torch.eye(V)[2]]).double()
    logprobs, entropy = logprobs_and_entropy(hidden, head, torch.tensor([0, 2]), temperature=1.0)
    assert logprobs.tolist() == pytest.approx([-math.log(V), 0.0], abs=1e-10)
    assert entropy.tolist() == pytest.approx([math.log(V), 0.0], abs=1e-10)


@pytest.mark.parametrize("step", [100.0, -100.0])
def test_tiles_with_very_different_logits_do_not_overflow(step):
    head = (step * torch.arange(V, dtype=torch.float32))[:, None].requires_grad_()
    hidden, targets = torch.ones(2, 1, requires_grad=True), torch.tensor([0, V - 1])
    got = logprobs_and_entropy(hidden, head, targets, temperature=1.0, tile=(2, 3))
    lowest = -abs(step) * (V - 1)
    assert got[0].tolist() == ([lowest, 0.0] if step > 0 else [0.0, lowest])
    assert got[1].tolist() == pytest.approx([0.0, 0.0], abs=1e-30)
    assert all(slope.isfinite().all() for slope in gradients(got, (hidden, head)))


def test_an_impossible_target_has_finite_values_and_gradients():
    head = torch.eye(V).requires_grad_()
    hidden = (1e5 * torch.eye(V)[:1]).requires_grad_()
    got = logprobs_and_entropy(hidden, head, torch.tensor([4]), temperature=1.0)
    assert got[0].item() == pytest.approx(-1e5)
    assert all(slope.isfinite().all() for slope in gradients(got, (hidden, head)))


def test_targets_may_be_int32():
    hidden, head, targets = example()
    got = logprobs_and_entropy(hidden, head, targets.int(), temperature=1.0)
    expected = plain(hidden, head, targets, 1.0)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    got, expected = (gradients(outputs, (hidden, head)) for outputs in (got, expected))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


class LargestResult(TorchDispatchMode):
    """Records the size of the largest tensor returned by any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize(("tile", "bound"), [((5, 40), 200), ((30, 7), 210), (None, 180)])
def test_the_full_logits_are_never_materialised(tile, bound, monkeypatch):
    monkeypatch.setattr(module, "CPU_TILE", 180)
    hidden, head = torch.randn(100, 2), torch.randn(40, 2).requires_grad_()
    hidden.requires_grad_()
    with LargestResult() as largest:
        got = logprobs_and_entropy(
            hidden, head, torch.zeros(100, dtype=torch.long), temperature=1.0, tile=tile
        )
        (got[0].sum() + got[1].sum()).backward()
    assert 0 < largest.elements <= max(bound, hidden.numel(), head.numel())


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 2**28))
def test_a_tile_fits_the_limit_and_uses_at_least_half_of_it(tokens, vocabulary, elements):
    rows, columns = tile_shape(tokens, vocabulary, elements)
    assert 1 <= rows <= max(1, tokens) and 1 <= columns <= vocabulary
    assert rows * columns <= elements
    whole = rows >= tokens and columns == vocabulary
    assert whole or 2 * rows * columns > elements


def test_a_tile_is_square_if_both_sides_are_long():
    assert tile_shape(32_768, 151_936, 2**20) == (1024, 1024)
    assert tile_shape(256, 151_936, 2**20) == (256, 4096)
    assert tile_shape(32_768, 64, 2**20) == (16_384, 64)


def test_a_gpu_tile_uses_a_share_of_the_free_memory_within_bounds():
    gib = 2**30
    assert [bounded_tile(n * gib) for n in (0, 1, 3, 100)] == [2**22, 2**24, 2**25, 2**26]
    assert 4 * 16 * bounded_tile(3 * gib) <= 3 * gib < 2 * 4 * 16 * bounded_tile(3 * gib)


def test_tiles_of_one_logit_are_exact(monkeypatch):
    monkeypatch.setattr(module, "CPU_TILE", 1)
    hidden, head, targets = example()
    got = logprobs_and_entropy(hidden, head, targets, temperature=1.0)
    torch.testing.assert_close(got, plain(hidden, head, targets, 1.0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0])
def test_fp32_is_exact_up_to_rounding_at_a_large_vocabulary(offset):
    """Against fp64. A common offset of all logits cancels only if each tile is summed relative to
    its own largest logit; computed as log Z - sum pi z, the entropy would lose digits."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(40, 16, generator=generator)
    head = torch.randn(20_011, 16, generator=generator)
    hidden[:, 0], head[:, 0] = offset, 1.0
    targets = torch.randint(20_011, (40,), generator=generator)
    inputs = hidden.requires_grad_(), head.requires_grad_()
    got = logprobs_and_entropy(*inputs, targets, temperature=1.0, tile=(16, 512))
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    expected = plain(wide[0], wide[1], targets, 1.0)
    rounding = 1e-5 if offset == 0 else 2e-4  # of the logits themselves
    for value, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=rounding, atol=rounding)
    for slope, exact in zip(gradients(got, inputs), gradients(expected, wide), strict=True):
        assert (slope.double() - exact).norm() < rounding * exact.norm()


def test_arguments_are_not_mutated():
    inputs = example()
    before = [x.detach().clone() for x in inputs]
    got = logprobs_and_entropy(*inputs, temperature=0.7, tile=(3, 4))
    gradients(got, inputs[:2])
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": 0.0}, "temperature"), ({"temperature": 1.0, "tile": (0, 1)}, "tile")],
)
def test_bad_arguments_raise(settings, message):
    with pytest.raises(AssertionError, match=message):
        logprobs_and_entropy(*example(), **settings)
