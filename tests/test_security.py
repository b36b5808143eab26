"""A foreign file must not run code, leave weights uninitialized or reveal a secret."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from asymrl import verifiers
from asymrl.config.load import CONFIG_DIR, load_config
from asymrl.config.schema import ModelConfig, ShapeConfig
from asymrl.data import problems
from asymrl.engines import pretrained
from asymrl.errors import MAX_SENTENCE, UserError, redact, short_repr
from tests.helpers.paths import ROOT

PROMPT: dict[str, Any] = {"system": None, "user": "{problem}", "template_kwargs": {}}
SECRETS = {
    "WANDB_API_KEY": "5ec3e7" * 6 + "5ec3",  # 40 hexadecimal digits, as wandb's are
    "HF_TOKEN": "hf_SentinelSentinelSentinel",
    "OPENAI_API_KEY": "sk-SentinelSentinelSentinel",
}


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


DELETED = "deleted"


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; DELETED removes one."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: x for key, x in content.items() if x != DELETED}))


def load(folder: Path, **settings: Any) -> Any:
    return pretrained.load_model(ModelConfig(path=str(folder), **settings), torch.float32)


def error_of(read: Any, *arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        read(*arguments, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


class Touch:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def test_a_pickle_is_not_read(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"a": Touch(canary)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "pytorch_model.bin but no model.safetensors" in error_of(load, folder)
    assert "cannot be loaded: Weights only" in error_of(load, folder, allow_pickle=True)
    assert not canary.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert canary.exists(), "the pickle runs code when it is loaded without protection"


def test_a_config_cannot_point_at_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.bin")
    edit(folder / "config.json", transformers_weights="weights.bin")
    assert "transformers_weights = 'weights.bin'" in error_of(load, folder)


def test_pickled_weights_are_read_only_with_allow_pickle(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(whole, folder / "pytorch_model.bin")
    assert "model.allow_pickle=true" in error_of(load, folder)
    parameters = dict(load(folder, allow_pickle=True).named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_is_not_run(folder: Path, tmp_path: Path, file: str) -> None:
    canary = tmp_path / "canary"
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    edit(folder / file, auto_map={kind: "own.Own" for kind in kinds}, model_type="own")
    for read in (pretrained.load_tokenizer, lambda m: pretrained.load_model(m, torch.float32)):
        text = error_of(read, ModelConfig(path=str(folder)))
        assert "model.trust_remote_code=true" in text and file in text
    assert not canary.exists()


def test_a_chat_template_cannot_leave_its_sandbox(folder: Path) -> None:
    tokenizer = pretrained.load_tokenizer(ModelConfig(path=str(folder)))
    tokenizer.chat_template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    assert "unsafe" in error_of(problems.render_prompt, tokenizer, "a", **PROMPT)


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "tools"])
def test_template_kwargs_cannot_set_parameters_of_apply_chat_template(tokenizer, name: str) -> None:
    prompt = PROMPT | {"template_kwargs": {name: False}}
    assert f"chat_template_kwargs.{name}" in error_of(
        problems.render_prompt, tokenizer, "a", **prompt
    )


def test_no_module_unpickles_evaluates_or_builds_objects_from_yaml() -> None:
    wrong = re.compile(
        r"torch\.load|import pickle|pickle\.load|(?<![.\w])(?:eval|exec)\(|yaml\.(?:unsafe_)?load\("
        r"|shell=True|os\.system\("
    )
    for file in [*ROOT.glob("asymrl/**/*.py"), ROOT / "train.py", ROOT / "eval.py"]:
        assert not wrong.findall(file.read_text()), file


def test_a_config_runs_no_code_and_reads_no_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    file = tmp_path / "c.yaml"
    for text in ("!!python/object/apply:os.getcwd []", "${oc.env:HF_TOKEN}"):
        file.write_text(f"base: {CONFIG_DIR / 'pocket.yaml'}\ntracking:\n  project: {text}\n")
        assert SECRETS["HF_TOKEN"] not in error_of(load_config, str(file))
    assert "oc.env" in error_of(load_config, "pocket", ["tracking.project=${oc.env:HF_TOKEN}"])


# ---- incomplete model folders


def split(folder: Path) -> list[str]:
    """Split the folder's weights into two shards and an index. Returns the names of the shards."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for file, part in zip(files, (names[:5], names[5:]), strict=True):
        save_file({name: whole[name] for name in part}, folder / file, {"format": "pt"})
    index = {name: files[place >= 5] for place, name in enumerate(names)}
    content = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return files


def test_a_sharded_model_loads_or_its_broken_file_is_named(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    first, second = split(folder)
    parameters = dict(load(folder).named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in whole.items())
    content = (folder / second).read_bytes()
    (folder / second).write_bytes(content[:-8])
    assert f"{second} is damaged" in error_of(load, folder)
    (folder / second).unlink()
    assert f"names {second}, which does not exist" in error_of(load, folder)
    edit(folder / "model.safetensors.index.json", weight_map={"a": "../config.json"})
    assert "'../config.json'" in error_of(load, folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    assert "model.safetensors.index.json: not valid JSON" in error_of(load, folder)
    (folder / "model.safetensors.index.json").unlink()
    assert "model.safetensors is missing" in error_of(load, folder)
    assert (folder / first).exists()


def test_a_missing_weight_is_an_error_and_not_initialized_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    missing = "model.layers.1.mlp.up_proj.weight"
    del weights[missing]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert missing in error_of(load, folder)


def test_weights_of_an_integer_type_are_an_error(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].view(torch.int32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "model.norm.weight has type I32" in error_of(load, folder)


def test_sizes_that_would_fill_the_memory_are_an_error(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=2**31)
    assert "num_hidden_layers = 2147483648" in error_of(load, folder)


def test_a_config_of_a_larger_model_is_an_error_before_it_is_allocated(folder: Path) -> None:
    """A config without these sizes describes a Qwen3 with 8 billion parameters: 32 GB."""
    for name in ("hidden_size", "vocab_size"):
        before = (folder / "config.json").read_text()
        edit(folder / "config.json", **{name: DELETED})
        assert "model.embed_tokens.weight has shape (" in error_of(load, folder)
        (folder / "config.json").write_text(before)
    load(folder)


def test_a_wrong_shape_names_the_key_and_both_numbers(folder: Path) -> None:
    sizes = {"layers": 2, "hidden": 32, "intermediate": 48, "heads": 2, "kv_heads": 1}
    right = ShapeConfig(
        **sizes,
        head_dim=32,
        vocab=len(pretrained.load_tokenizer(ModelConfig(path=str(folder)))),
        tied=True,
    )
    load(folder, shape=right)
    for key, wrong in {"vocab": 999, "tied": False, "kv_heads": 2}.items():
        text = error_of(load, folder, shape=right.model_copy(update={key: wrong}))
        assert f"model.shape.{key} = {wrong}, but" in text


# ---- tokenizers


def test_a_tokenizer_with_ids_beyond_the_models_vocabulary_is_an_error(folder: Path) -> None:
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    edit(folder / "config.json", vocab_size=rows - 1)
    text = error_of(pretrained.load_tokenizer, ModelConfig(path=str(folder)))
    assert f"ids up to {rows - 1}" in text and f"vocabulary size is {rows - 1}" in text


def test_ids_far_apart_are_refused_before_they_fill_the_memory(folder: Path) -> None:
    held = json.loads((folder / "tokenizer.json").read_text())
    held["model"]["vocab"]["<0x00>"] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(held))
    text = error_of(pretrained.load_tokenizer, ModelConfig(path=str(folder)))
    assert "tokenizer.json: the largest token id is 2147483648" in text


def test_a_model_without_a_stop_token_is_an_error(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, eos_token_id=DELETED)
    edit(folder / "tokenizer_config.json", eos_token=DELETED)
    model = ModelConfig(path=str(folder))
    tokenizer = pretrained.load_tokenizer(model)
    assert "has no stop token" in error_of(pretrained.stop_ids, model, tokenizer, ())
    assert len(pretrained.stop_ids(model, tokenizer, ["<|im_end|>"])) == 1


@pytest.mark.parametrize("wrong", [10**6, -1, "</s>", 1.5, {"a": 1}])
def test_a_stop_token_that_is_not_a_token_id_is_an_error(folder: Path, wrong: Any) -> None:
    edit(folder / "generation_config.json", eos_token_id=wrong)
    model = ModelConfig(path=str(folder))
    text = error_of(pretrained.stop_ids, model, pretrained.load_tokenizer(model), ())
    assert "stop token" in text or "cannot be loaded" in text


def test_a_broken_generation_config_is_an_error(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{")
    text = error_of(pretrained.load_tokenizer, ModelConfig(path=str(folder)))
    assert "generation_config.json: not valid JSON" in text


def test_a_tokenizer_without_a_chat_template_is_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    file = tmp_path / "d.jsonl"
    file.write_text('{"problem": "a", "answer": "1"}\n')
    tokenizer: Any = pretrained.load_tokenizer(ModelConfig(path=str(folder)))
    with verifiers.make("exact") as verifier:
        loader = problems.ProblemLoader(
            tokenizer=tokenizer, verifier=verifier, prompt=PROMPT, max_prompt_tokens=64
        )
        text = error_of(loader.load, str(file))
    assert "no chat template" in text and "chat_template.jinja" in text


# ---- no network, no secrets


@pytest.mark.parametrize(
    "setting",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}],
)
def test_a_hub_id_without_a_network_is_one_sentence_without_retries(
    setting: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "train.py", "--config", "qwen3_4b_asym.yaml", "data.train=gsm8k"]
    command += ["--output-dir", str(tmp_path / "run"), "rollout.engine=hf", "policy.backend=local"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | setting,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Qwen/Qwen3-4B" in done.stderr.splitlines()[-1]
    assert "Retrying" not in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_writes_no_secret(config_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", "--config", str(config_file), "--output-dir"]
    command += [str(folder), "steps=2", "tracking.wandb=offline", "verifier.name=exact"]
    environment = os.environ | SECRETS | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert any("offline-run" in str(file) and file.suffix == ".wandb" for file in files)
    outputs = {str(file): file.read_bytes() for file in files}
    outputs |= {"output": (done.stdout + done.stderr).encode()}
    for secret in SECRETS.values():
        assert [name for name, content in outputs.items() if secret.encode() in content] == []


def test_passwords_and_tokens_are_redacted(tmp_path: Path) -> None:
    for text, secret in {
        "data.train=https://me:hunter2@host/d.jsonl": "hunter2",
        "some.token=hunter2": "hunter2",
        "x.api_key=hunter2 y=1": "hunter2",
    }.items():
        assert secret not in redact(text) and secret not in str(UserError(text))
    plain = "model.path=org/name loss.clip_high=0.28 https://host/a@b"
    assert redact(plain) == plain


def test_an_error_sentence_is_one_line_without_control_characters() -> None:
    text = str(UserError("a\nb\x1b[31m" + "\u202e" + "x" * 10_000 + "the end"))
    assert text.startswith(r"a\nb\x1b[31m\u202exx") and text.endswith("xthe end")
    assert len(text) <= MAX_SENTENCE and text.isprintable()
    assert short_repr(10**5000) == "a very large int"
