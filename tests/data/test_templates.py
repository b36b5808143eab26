r"""Prompts of the real backbones, rendered with the official chat templates.

TRL's package ships copies of the templates. Those of Qwen2.5-Math and of the base model differ from
TRL's copy only in the default system prompt, which our configs or these tests set.
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
    data = load_config(model).data
    text, _ = render_prompt(
        tokenizer,
        QUESTION,
        system=data.system or system,
        user=data.user,
        template_kwargs=data.chat_template_kwargs,
    )
    return text


def test_qwen3_is_prompted_in_non_thinking_mode(tokenizer) -> None:
    assert rendered(tokenizer, "qwen3.jinja", "qwen3_4b") == (
        f"<|im_start|>user\n{QUESTION}\n{BOX}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_qwen25_math_gets_the_instruction_in_its_system_turn(tokenizer) -> None:
    assert rendered(tokenizer, "qwen2_5.jinja", "qwen2.5_math_1.5b") == (
        f"<|im_start|>system\n{BOX}<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_qwen25_base_gets_the_instruction_in_the_user_turn(tokenizer) -> None:
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
