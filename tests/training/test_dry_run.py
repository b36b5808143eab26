"""The dry run: the verdict first; the model and the data that the config names; no network."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import yaml

import train
from asymrl.config.load import dump_config, load_config
from asymrl.engines import memory
from asymrl.training.dry_run import dry_run, marked


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dry run uses no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def printed(capsys, *arguments: str) -> list[str]:
    assert train.main([*arguments, "--dry-run"]) == 0
    return capsys.readouterr().out.splitlines()


def sentence(capsys, *arguments: str) -> str:
    assert train.main([*arguments, "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_the_estimate_is_that_of_the_model_which_is_named(model_folder: Path, capsys) -> None:
    """Not that of the base config."""
    lines = printed(capsys, "--config", "qwen3_4b", f"model.path={model_folder}")
    stored = sum(x.numel() for x in load(model_folder).parameters())
    (count,) = [line for line in lines if line.startswith("memory (")]
    counted = int(count.split(" parameters)")[0].rsplit(" ", 1)[1].replace(",", ""))
    assert counted == pytest.approx(stored, rel=0.01)
    assert f"checked: model {model_folder}, by {model_folder}/config.json" in lines


def load(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_wrong_shape_names_the_way_out(model_folder: Path, capsys) -> None:
    wrong = "model.shape={layers: 9, hidden: 32, intermediate: 48, heads: 2, kv_heads: 1, "
    settings = [f"model.path={model_folder}", wrong + "head_dim: 32, vocab: 313, tied: true}"]
    text = sentence(capsys, "--config", "pocket", *settings)
    assert "model.shape.layers = 9, but" in text and "model.shape=null reads the shape" in text
    printed(capsys, "--config", "pocket", *settings, "model.shape=null")


def test_a_model_of_another_form_is_said(model_folder: Path, tmp_path: Path, capsys) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["experts"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    lines = printed(capsys, "--config", "own", f"model.path={folder}", "data.train=gsm8k")
    (line,) = [line for line in lines if line.startswith("checked: model")]
    assert "parameters, but the memory estimate" in line
    (folder / "model.safetensors").unlink()
    text = sentence(capsys, "--config", "own", f"model.path={folder}", "data.train=gsm8k")
    assert "has no weights" in text


def test_local_data_is_read_and_hub_ids_are_named(tmp_path: Path, capsys) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"question": "q", "solution": "7"}) + "\n")
    arguments = ["--config", "own", "model.path=org/model", f"data.train={file}"]
    lines = printed(capsys, *arguments, "eval.benchmarks=[gsm8k,org/name]", "eval.split=dev")
    assert lines[0].startswith("verdict: unknown") and "model.shape" in lines[0]
    assert f"checked: data.train {file}, 1 problem in the columns question and solution" in lines
    unchecked = [line.rpartition("no network: ")[2] for line in lines if line[:4] == "not "]
    assert unchecked == [
        "model org/model",
        "eval.benchmarks gsm8k, openai/gsm8k on the hub",
        "eval.benchmarks org/name, split dev",
    ]
    assert "'mine' must be a non-empty" in sentence(capsys, *arguments, "data.problem_field=mine")


def test_the_step_time_is_said_for_gpus_only(capsys) -> None:
    (line,) = [x for x in printed(capsys, "--config", "qwen3_4b") if "step time" in x]
    assert "(estimate; nothing ran on a GPU)" in line and "the bottleneck is generation" in line
    assert not [x for x in printed(capsys, "--config", "pocket") if "step time" in x]


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("data.train=none.jsonl", "none.jsonl does not exist"),
        ("model.path=./none", "model folder ./none does not exist"),
        ("model.path=a/b/c", "model folder a/b/c does not exist"),
        ("model.path=a b", "neither a local folder nor the id"),
        (
            "model.path=configs/none",
            "model folder configs/none, taken as a path because there is a folder configs here, ",
        ),
        ("model.path=configs", "configs is not a model folder: config.json is missing; valid is"),
        ("data.train=configs/none", "data file configs/none does not exist; valid is a local"),
        ("data.chat_template=none.jinja", "none.jinja cannot be read"),
        ("eval.benchmarks=[a/x.jsonl,b/x.jsonl]", "two benchmarks are called x"),
        ("data.split=dev", "applies only to hub data sets"),
    ],
)
def test_a_local_mistake_ends_it_with_one_sentence(capsys, setting: str, part: str) -> None:
    assert part in sentence(capsys, "--config", "pocket", setting)


def test_a_hub_model_of_earlier_runs_is_read_from_the_cache(
    model_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    repository = tmp_path / "models--org--model"
    shutil.copytree(model_folder, repository / "snapshots/abc")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    lines = printed(capsys, "--config", "own", "model.path=org/model", "data.train=gsm8k")
    assert lines[0].startswith("verdict: fits on this machine's CPU")
    assert any(line.startswith("checked: model org/model, by ") for line in lines)


def test_a_pocket_model_that_is_not_made_yet_is_not_made(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lines = printed(capsys, "--config", "pocket")
    assert "checked: model pocket:0, which is made on first use" in lines
    assert lines[0].startswith("verdict: fits") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "machine", "part"),
    [
        ("pocket", (0, 0.0, 8.0), "fits on this machine's CPU, as one process"),
        ("pocket", (0, 0.0, 0.1), "does not fit on this machine's CPU: one process needs up to"),
        ("qwen3_4b", (0, 0.0, 8.0), "fits on 2, 4 or 8 GPUs of 79 GiB; this machine has none"),
        ("qwen3_4b", (4, 79.2, 500.0), "fits on 4 x 79 GiB, the GPUs of this machine, with 8.4"),
        ("qwen3_4b", (4, 79.2, 48.0), "does not fit: the run needs up to 52 GiB of the machine's"),
        ("qwen3_4b", (1, 79.2, 500.0), "does not fit on 1 x 79 GiB, the GPUs of this machine, sh"),
        ("qwen3_4b", (4, 24.0, 500.0), "does not fit on 4 x 24 GiB"),
    ],
)
def test_the_verdict_says_whether_it_fits_and_on_what(name: str, machine, part: str) -> None:
    assert memory.verdict(load_config(name), *machine).startswith(part)


@pytest.mark.parametrize(
    ("name", "settings", "part"),
    [
        ("pocket", [], "off (in float32, rollout engine and policy have nearly the same"),
        ("qwen3_4b", [], "token (each token's ratio of policy to rollout engine, at most 2, mul"),
        ("qwen3_4b", ["loss.importance_sampling=off"], "off (although rollout engine and policy"),
    ],
)
def test_it_says_whether_importance_sampling_corrects_and_why(name, settings, part, capsys) -> None:
    lines = printed(capsys, "--config", name, *settings)
    assert any(line.startswith(f"importance sampling: {part}") for line in lines)


def test_it_says_what_dynamic_sampling_leaves_open(capsys) -> None:
    lines = printed(capsys, "--config", "pocket_dapo")
    (line,) = [line for line in lines if line.startswith("dynamic sampling: ")]
    assert "about 256 rollouts / (share of mixed groups)" in line
    assert "not full after 10 rounds, at most 2,560 rollouts, ends the run" in line
    assert lines[1].startswith("the batch of a step: at most 8,192 response tokens")
    assert "the run: 100 steps = at least 3,200 prompt draws, at least 25,600 rollouts" in "".join(
        lines
    )
    assert not any("dynamic" in line for line in printed(capsys, "--config", "pocket")[:20])


@pytest.mark.parametrize("name", ["pocket_asym", "pocket_dapo", "cw_grpo_paper", "eapo_paper"])
def test_the_printed_config_is_the_config_with_its_defaults_beside_it(name: str) -> None:
    settings = [
        "loss.clip_high=0.3",
        "data.chat_template_kwargs={a: [1]}",
        "tracking.project='x\ty'",
    ]
    config = load_config(name, [*settings])
    lines = list(marked(config))
    assert yaml.safe_load("\n".join(lines)) == yaml.safe_load(dump_config(config))
    assert "  clip_high: 0.3  # default: 0.2" in lines and "  clip_low: 0.2" in lines
    assert any(line.startswith("  prompts: ") and "#" not in line for line in lines)


def test_texts_of_several_lines_stay_what_they_are() -> None:
    config = load_config("qwen3_4b", ['data.user="a: b # c\n\n  {problem}\u2028\'x"', "seed=3"])
    text = dry_run(config, "a")
    assert yaml.safe_load(text[text.index("# composed") :]) == config.model_dump()
    assert "seed: 3  # default: 0" in text
