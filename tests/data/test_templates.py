r"""Prompts of the real backbones, rendered by a tokenizer from the official template text.

The texts come with TRL's package, which ships copies of them; Qwen2.5-Math's and the base model's
differ from the one there in the default system prompt only, which our configs or tests state.
"""

from importlib.resources import files

import pytest

from asymrl.config.load import load_config
from asymrl.data.problems import render_prompt

QUESTION = "What is 1+1?"
BOX = "Please reason step by step, and put your final answer within \\boxed{}."


def rendered(tokenizer, template: str, model: str, system: str | None = None) -> str:
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    tokenizer.chat_template = (files("trl") / "chat_templates" / template).read_text()
    data = load_config(f"{model}_asym").data
    text, _ = render_prompt(
        tokenizer,
        QUESTION,
        system=data.system or system,
        user=data.user,
        template_kwargs=data.chat_template_kwargs,
    )
    return text


def test_qwen3_thinks_not(tokenizer) -> None:
    assert rendered(tokenizer, "qwen3.jinja", "qwen3_4b") == (
        f"<|im_start|>user\n{QUESTION}\n{BOX}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_qwen25_math_has_the_sentence_in_its_system_turn(tokenizer) -> None:
    assert rendered(tokenizer, "qwen2_5.jinja", "qwen2.5_math_1.5b") == (
        f"<|im_start|>system\n{BOX}<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_qwen25_base_has_the_sentence_in_the_user_turn(tokenizer) -> None:
    system = "You are a helpful assistant."
    assert rendered(tokenizer, "qwen2_5.jinja", "qwen2.5_7b", system) == (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}\n{BOX}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("braces", ["{x}", "{problem}", "{}", "{{", "%s"])
def test_braces_in_a_problem_stay_as_they_are(tokenizer, braces: str) -> None:
    text, ids = render_prompt(
        tokenizer, braces, system=None, user=BOX + "{problem}", template_kwargs={}
    )
    assert BOX + braces in text
    assert tokenizer.decode(ids) == text
