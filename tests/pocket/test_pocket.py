"""The pocket task: its tokenizer, its text, its misremembered facts, the policy's folder."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from asymrl import pocket
from asymrl.errors import UserError
from asymrl.pocket import DATA, modular_sums
from asymrl.pocket.__main__ import main
from asymrl.pocket.build import build_policy
from asymrl.pocket.folders import RECORD
from asymrl.pocket.model import MAX_LENGTH, Recipe
from asymrl.pocket.modular_sums import (
    END,
    LENGTHS,
    MODULUS,
    PIECES,
    Style,
    demonstration,
    misremembered_facts,
    question,
    split_sets,
)
from asymrl.pocket.tokenizer import build_tokenizer
from asymrl.verifiers.exact import verify
from tests.helpers.paths import SHARED_DATA

TINY = Recipe(hidden=32, layers=1, heads=1, feed_forward=32, steps=6, batch=4, warmup=1)
CLEAN = Style()
TOKENIZER = build_tokenizer(MAX_LENGTH)
MATH = SHARED_DATA / "math_train.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_policy(tmp_path_factory.mktemp("models") / "pocket-0", recipe=TINY)


@pytest.fixture(scope="module")
def saved(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]  # pyright: ignore[reportReturnType]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- tokenizer


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.sampled_from([*PIECES, END, "<0x41>", " + 123", "12", "\ufffd", " ", "\r\n"])
    ).map("".join)
)
def test_the_tokenizer_decodes_any_text_exactly(text: str) -> None:
    assert TOKENIZER.decode(encode(TOKENIZER, text)) == text


def test_the_saved_tokenizer_decodes_any_text_exactly(saved: PreTrainedTokenizerFast) -> None:
    for text in ("½ · π\u2028\U0001f937\u0000", "\ufffd\ufffd", " + 12 + 3 = 2; 2 + 131", "<0xC3>"):
        assert saved.decode(encode(saved, text)) == text
        assert encode(saved, text) == encode(TOKENIZER, text)


@pytest.mark.skipif(not MATH.exists(), reason=f"no MATH problems at {MATH}")
def test_math_problems_and_solutions_are_decoded_exactly(saved: PreTrainedTokenizerFast) -> None:
    texts = [row[key] for row in read(MATH)[:300] for key in ("problem", "solution")]
    assert saved.batch_decode(saved(texts)["input_ids"]) == texts


def test_every_piece_is_one_token() -> None:
    assert all(len(encode(TOKENIZER, piece)) == 1 for piece in PIECES)
    assert len(TOKENIZER) == len(set(TOKENIZER.get_vocab().values())) <= 400


@pytest.mark.parametrize("style", [CLEAN, Style(skip=0.5, wrong=0.2, reuse=0.2)])
def test_questions_and_demonstrations_tokenize_piece_by_piece(style: Style) -> None:
    rng = random.Random(0)
    for n in LENGTHS * 20:
        numbers = rng.sample(range(MODULUS), n)
        for pieces in (question(numbers), demonstration(numbers, style, rng)):
            assert TOKENIZER.convert_ids_to_tokens(encode(TOKENIZER, "".join(pieces))) == pieces


def test_a_long_number_does_not_match_the_piece_of_a_short_one() -> None:
    tokens = TOKENIZER.convert_ids_to_tokens(encode(TOKENIZER, "4 + 130 + 1"))
    assert tokens == ["4", "<0x20>", "<0x2B>", "<0x20>", "1", "3", "0", " + 1"]


@pytest.mark.parametrize("text", ["What is 4 + 12 (mod 13)?", "Let $x^2 = \\frac{1}{2}$.\n{{ x }}"])
def test_the_chat_template_renders_exactly(saved: PreTrainedTokenizerFast, text: str) -> None:
    user = [{"role": "user", "content": text}]
    rendered = saved.apply_chat_template(user, add_generation_prompt=True, tokenize=False)
    assert rendered == f"<|user|>{text}<|assistant|>"
    ids = saved.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
    assert ids == encode(saved, str(rendered))
    both = [*user, {"role": "assistant", "content": "4 + 12 = \\boxed{3}"}]
    closed = saved.apply_chat_template(both, tokenize=False)
    assert closed == f"<|user|>{text}<|assistant|>4 + 12 = \\boxed{{3}}<|im_end|>"


def test_a_prompt_has_one_token_per_number_and_three_more() -> None:
    user = [{"role": "user", "content": "What is 4 + 12 + 9 (mod 13)?"}]
    ids = TOKENIZER.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
    assert len(ids) == 3 + 3


# --- task


def test_every_sum_in_a_clean_demonstration_is_correct() -> None:
    rng = random.Random(1)
    for n in LENGTHS * 30:
        numbers = rng.sample(range(MODULUS), n)
        text = "".join(demonstration(numbers, CLEAN, rng)).removesuffix(END)
        assert verify(str(sum(numbers) % MODULUS), text)[0] == "correct"
        for line in text.replace("\\boxed{", "").replace("}", "").split("; "):
            left, right = line.split(" = ")
            assert sum(map(int, left.split(" + "))) % MODULUS == int(right)


def test_demonstrations_use_every_order_and_skip_only_subtotals() -> None:
    rng = random.Random(2)
    sloppy = Style(skip=1.0)
    texts = {"".join(demonstration((1, 2, 3), sloppy, rng)) for _ in range(200)}
    assert len(texts) == 6
    assert "3 + 1 + 2 = \\boxed{6}<|im_end|>" in texts


def test_wrong_demonstrations_are_as_frequent_as_the_style_says() -> None:
    rng = random.Random(3)
    style = Style(wrong=0.5)
    reasons = [verify("11", "".join(demonstration((5, 6), style, rng)))[0] for _ in range(2000)]
    assert abs(reasons.count("correct") / 2000 - (0.5 + 0.5 / MODULUS)) < 0.04
    assert set(reasons) == {"correct", "wrong"}


def test_every_set_is_in_exactly_one_half_of_the_split() -> None:
    train, heldout = split_sets()
    for n in LENGTHS:
        assert not set(train[n]) & set(heldout[n])
        assert len(set(train[n]) | set(heldout[n])) == len(train[n]) + len(heldout[n])
    assert len(train[2]) + len(heldout[2]) == 78
    assert len(train[6]) + len(heldout[6]) == 1716


def test_misremembered_facts_are_wrong_and_differ_between_seeds() -> None:
    facts, others = misremembered_facts(0.4, 0), misremembered_facts(0.4, 1)
    assert len(facts) == len(others) == round(0.4 * MODULUS**2)
    assert all(value != sum(pair) % MODULUS for pair, value in facts.items())
    assert all(value in range(MODULUS) for value in facts.values())
    assert facts != others and facts == misremembered_facts(0.4, 0)
    assert not misremembered_facts(0.0, 0)


def test_a_misremembered_fact_is_always_written_with_the_same_wrong_value() -> None:
    """And the response continues from it: 3 + 4 is remembered as 9, so 9 + 1 = 10."""
    rng = random.Random(4)
    style = replace(CLEAN, misremember=1.0)
    texts = {"".join(demonstration((1, 3, 4), style, rng, {(3, 4): 9})) for _ in range(300)}
    assert "3 + 4 = 9; 9 + 1 = \\boxed{10}<|im_end|>" in texts
    assert "4 + 3 = 7; 7 + 1 = \\boxed{8}<|im_end|>" in texts  # another order avoids it
    assert len(texts) == 6


def test_misremembering_is_as_frequent_as_the_style_says_and_needs_a_single_addition() -> None:
    rng = random.Random(5)
    facts = {(5, 6): 2, (6, 5): 2}
    often = replace(CLEAN, misremember=0.9)
    texts = ["".join(demonstration((5, 6), often, rng, facts)) for _ in range(2000)]
    assert abs(sum("boxed{2}" in text for text in texts) / 2000 - 0.9) < 0.03
    skipped = replace(often, skip=1.0)
    rest = ["".join(demonstration((1, 5, 6), skipped, rng, facts)) for _ in range(200)]
    assert all("boxed{12}" in text for text in rest)


def test_training_and_heldout_problems_are_disjoint_as_sets_of_numbers() -> None:
    trained = {frozenset(row["numbers"]) for row in DATA["pocket_train"]()}
    heldout = [frozenset(row["numbers"]) for row in DATA["pocket_heldout"]()]
    assert len(heldout) == 320 and len(trained) > 1000 and not trained & set(heldout)


@pytest.mark.parametrize("name", ["pocket_train", "pocket_heldout"])
def test_every_gold_is_correct_and_every_id_is_unique(name: str) -> None:
    rows = list(DATA[name]())
    assert rows == list(DATA[name]())
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        numbers = [int(x) for x in re.findall(r"\d+", row["problem"].removesuffix(" (mod 13)?"))]
        assert numbers == row["numbers"] and len(numbers) == row["n"] == len(set(numbers))
        assert row["answer"] == str(sum(numbers) % MODULUS)


# --- the folder


def test_the_policy_opens_as_an_ordinary_model_folder(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "qwen3" and model.dtype == torch.float32
    assert model.config.head_dim >= 32 and model.config.max_position_embeddings >= 1024
    assert model.config.vocab_size == len(TOKENIZER)
    assert model.generation_config.eos_token_id == TOKENIZER.convert_tokens_to_ids(END)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model(torch.tensor([[3, 4]])).logits.isfinite().all()


def test_the_record_says_what_the_folder_was_made_from(folder: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    assert record["seed"] == 0 and record["recipe"]["steps"] == TINY.steps
    assert record["heldout_accuracy"].keys() == {"greedy", "t1"}


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != RECORD)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_the_same_seed_makes_the_same_bytes_and_another_seed_does_not(
    folder: Path, tmp_path: Path
) -> None:
    again = contents(build_policy(tmp_path / "again", recipe=TINY))
    other = contents(build_policy(tmp_path / "other", seed=1, recipe=TINY))
    assert again == contents(folder)
    assert other["model.safetensors"] != again["model.safetensors"]
    assert other["tokenizer.json"] == again["tokenizer.json"]


def test_building_does_not_change_the_number_of_threads_or_the_global_seed(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    build_policy(tmp_path / "pocket", recipe=TINY)
    assert torch.get_num_threads() == threads
    sample = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(sample, torch.rand(1))


def test_an_existing_policy_is_reused_and_another_recipe_or_force_rebuilds_it(
    tmp_path: Path,
) -> None:
    steps: list[int] = []

    def count(done: int, total: int, text: str) -> None:
        steps.append(done)

    place, short = tmp_path / "pocket", replace(TINY, steps=2)
    build_policy(place, 0, count, recipe=TINY)
    assert steps == list(range(1, TINY.steps + 1))
    build_policy(place, 0, count, recipe=TINY)
    assert len(steps) == TINY.steps
    build_policy(place, 0, count, recipe=short)
    assert len(steps) == TINY.steps + 2
    build_policy(place, 0, count, recipe=short, force=True)
    assert len(steps) == TINY.steps + 4
    build_policy(place, 1, count, recipe=short)
    assert len(steps) == TINY.steps + 6
    build_policy(place, 1, count, recipe=short)
    assert len(steps) == TINY.steps + 6
    (place / "tokenizer.json").unlink()  # a damaged folder is made again
    build_policy(place, 1, count, recipe=short)
    assert len(steps) == TINY.steps + 8 and (place / "tokenizer.json").is_file()
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def _stall_in_training(place: Path) -> None:
    def stall(done: int, total: int, text: str) -> None:
        (place.parent / "training").touch()
        time.sleep(600)

    build_policy(place, 0, stall, recipe=TINY)


def test_a_killed_build_leaves_no_folder_and_a_waiting_process_builds_it(
    tmp_path: Path,
) -> None:
    place = tmp_path / "pocket"
    builder = multiprocessing.get_context("spawn").Process(target=_stall_in_training, args=(place,))
    builder.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "training").exists():
        assert time.monotonic() < deadline and builder.is_alive()
        time.sleep(0.02)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(build_policy, place, recipe=TINY)
        time.sleep(0.3)
        assert not waiting.done() and not place.exists()
        builder.kill()
        builder.join()
        assert waiting.result(60) == place
    assert (place / RECORD).exists()
    assert not list(tmp_path.glob(".pocket.partial-*"))


def test_two_concurrent_builds_train_once(tmp_path: Path) -> None:
    steps: list[int] = []

    def note(done: int, total: int, text: str) -> None:
        steps.append(done)
        time.sleep(0.05)

    place = tmp_path / "pocket"
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(build_policy, place, 0, note, recipe=TINY) for _ in range(2)]
        assert [m.result(60) for m in futures] == [place] * 2
    assert steps == list(range(1, TINY.steps + 1))


def test_a_folder_with_other_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="AsymRL did not create it"):
        build_policy(tmp_path / "mine", recipe=TINY)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "name", ["pocket:-1", f"pocket:{2**63}", "pocket:x", "pocket:1.5", "qwen", ""]
)
def test_an_invalid_model_name_exits_2_with_one_sentence(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "pocket:" in error


def test_a_folder_that_cannot_be_written_exits_2(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file")
    monkeypatch.chdir(tmp_path)
    assert main(["pocket:3"]) == 2
    assert "runs/models/pocket-3 cannot be written" in capsys.readouterr().err


def test_names_of_models_that_are_made_here() -> None:
    assert all(map(pocket.is_made_here, ["pocket", "pocket:3", "pocket_short:3", "smollm2_135m"]))
    assert not any(map(pocket.is_made_here, ["pockets", "Qwen/Qwen3-4B", "runs/pocket", ""]))


@pytest.mark.parametrize(
    "name", ["pocket:0", pytest.param("pocket_short:0", marks=pytest.mark.long)]
)
def test_the_untrained_policy_has_much_to_learn(name: str) -> None:
    """Greedy accuracy leaves room, so that a rise is ability and not a lower temperature."""
    record = json.loads((pocket.model_folder(name) / RECORD).read_text())
    assert 0.1 < record["heldout_accuracy"]["greedy"] <= 0.35
    assert record["heldout_accuracy"]["t1"] <= record["heldout_accuracy"]["greedy"] + 0.05


@pytest.mark.parametrize("name", modular_sums.VARIANTS)
def test_training_and_heldout_problems_of_a_variant_share_lengths_and_no_set(name: str) -> None:
    variant = modular_sums.VARIANTS[name]
    assert variant.heldout.keys() == variant.training.keys()
    train, heldout = ([*DATA[f"{name}_{part}"]()] for part in ("train", "heldout"))
    assert len(train) == 2000 and len(heldout) == 320
    sets = [{frozenset(row["numbers"]) for row in rows} for rows in (train, heldout)]
    assert not sets[0] & sets[1]
    assert len({row["problem"] for row in heldout}) == 320
