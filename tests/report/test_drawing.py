"""Text in drawings: it fits into its width, and shortened names still differ."""

from __future__ import annotations

import pytest

from asymrl.report.drawing import fitting, legend_entries, scientific, text_width


@pytest.mark.parametrize("text", ["W" * 200, "i" * 200, "\N{CJK UNIFIED IDEOGRAPH-6570}" * 44])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_text_is_cut_to_its_width_and_no_further(text: str) -> None:
    cut = fitting(text, 120, size=8.5)
    assert 105 < text_width(cut, size=8.5) <= 120
    assert cut[0] == cut[-1] == text[0] and "…" in cut
    assert fitting("grpo", 120, size=8.5) == "grpo"


def test_names_that_begin_and_end_alike_get_different_entries() -> None:
    names = [f"qwen3_4b_asym_pos0.{n}_neg0.4_lr2e-6_bs128" for n in range(10)]
    assert legend_entries(names, 120) == [f"…ym_pos0.{n}…" for n in range(10)]
    assert legend_entries(["asym", "grpo"], 120) == ["asym", "grpo"]
    assert legend_entries(["a" * 99, "a" * 100], 120) == ["…" + "a" * 8, "…" + "a" * 9]


def test_a_scientific_number_has_its_sign_and_power_of_ten() -> None:
    numbers = (2.5e-5, -2e-7, 0.0, 1e90, 150_000.0)
    assert [scientific(n) for n in numbers] == [
        "2.5e-5",
        "\N{MINUS SIGN}2e-7",
        "0",
        "1e90",
        "1.5e5",
    ]
