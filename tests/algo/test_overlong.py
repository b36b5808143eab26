"""The overlong penalty by hand-computed numbers."""

import pytest
import torch

from asymrl.algo.overlong import overlong_penalty


def penalty(lengths: list[int], buffer: int = 4, penalty: float = 1.0) -> list[float]:
    given = torch.tensor([lengths])
    return overlong_penalty(given, max_tokens=20, buffer=buffer, penalty=penalty)[0].tolist()


def test_it_rises_from_0_to_the_penalty_over_the_buffer() -> None:
    """DAPO's L_max = 20 and L_cache = 4, of which Eq. 13 takes off (|y| - 16) / 4."""
    assert penalty([1, 15, 16, 17, 18, 19, 20]) == [0, 0, 0, 0.25, 0.5, 0.75, 1]
    assert penalty([16, 18, 20], penalty=0.5) == [0, 0.25, 0.5]


def test_a_buffer_may_be_one_token_or_the_whole_length() -> None:
    assert penalty([19, 20], buffer=1) == [0, 1]
    assert penalty([5, 10, 20], buffer=20) == [0.25, 0.5, 1]


@pytest.mark.parametrize("buffer", [0, 21])
def test_a_buffer_outside_of_the_length_is_an_error(buffer: int) -> None:
    with pytest.raises(AssertionError, match="buffer must be from 1 to max_tokens = 20"):
        penalty([3], buffer=buffer)
