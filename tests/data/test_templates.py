r"""Prompts of the real backbones, rendered with the official chat templates.

TRL's package ships copies of the templates. Those of Qwen2.5-Math and of the base model differ from
TRL's copy only in the default system prompt, which our configs or these tests set.
"""

from importlib.resources import files
from pathlib import Path

import pytest

from asymrl.config.load import load_config
from asymrl.config.schema import DataConfig, ModelConfig
from asymrl.data.problems import render_prompt
from asymrl.engines import pretrained
from asymrl.errors import UserError

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


def test_a_raw_prompt_is_the_user_text_alone(tokenizer) -> None:
    """With data.chat_template: none, also for a tokenizer without a template."""
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    data = load_config("smollm2_135m").data
    text, ids = render_prompt(bare, "27 + 35", **data.prompt)
    assert text == "3 + 4 = 7\n12 + 5 = 17\n8 + 6 = 14\n27 + 35 ="
    assert bare.decode(ids) == text


def test_the_template_of_a_file_replaces_the_tokenizers(model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "short.jinja"
    file.write_text("Q: {{ messages[-1]['content'] }} A:")
    model = ModelConfig(path=str(model_folder))
    prompt = DataConfig(train="x", chat_template=str(file)).prompt
    text, _ = render_prompt(pretrained.load_tokenizer(model, str(file)), "1 + 1", **prompt)
    assert text == "Q: 1 + 1 A:"
    assert pretrained.load_tokenizer(model, "none").chat_template is not None
    with pytest.raises(UserError, match=r"data.chat_template: .*missing.jinja cannot be read"):
        pretrained.load_tokenizer(model, str(tmp_path / "missing.jinja"))
    file.write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
    with pytest.raises(UserError, match=r"short\.jinja, line 2: unexpected '}'"):
        pretrained.load_tokenizer(model, str(file))


def test_a_stop_text_is_exactly_one_token(model_folder: Path, tokenizer) -> None:
    model = ModelConfig(path=str(model_folder))
    newline = tokenizer.encode("\n", add_special_tokens=False)
    assert len(newline) == 1
    assert set(newline) < set(pretrained.stop_ids(model, tokenizer, ["\n"]))
    assert tokenizer.eos_token_id in pretrained.stop_ids(model, tokenizer, ["\n", " + 3"])
    for text in ("ab", ""):
        with pytest.raises(UserError, match=f"rollout.stop: '{text}' is {len(text)} tokens"):
            pretrained.stop_ids(model, tokenizer, [text])
