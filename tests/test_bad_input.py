"""What a new user gets wrong: one sentence, exit code 2, nothing lost and nothing half-written."""

import fcntl
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import eval as evaluation
import train
from asymrl.config.load import dump_config, load_config
from asymrl.config.mistakes import OTHER_NAMES, all_keys
from asymrl.errors import UserError
from asymrl.files import file_digest
from asymrl.report import __main__
from asymrl.run import checkpoint, environment


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, program=train) -> str:
    assert program.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr().err
    (line,) = [line for line in captured.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture
def tiny(config_file: Path, tmp_path: Path) -> list[str]:
    return ["--config", str(config_file), "--output-dir", str(tmp_path / "run")]


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("rollout.grup_size=4", "did you mean rollout.group_size"),
        ("rollout.group_size=1", "rollout.group_size = 1"),
        ("advantage.beta_pos=-1", "advantage.beta_pos = -1"),
        ("steps=0", "steps = 0"),
        ("steps=soon", "steps = 'soon'"),
        ("data.train=no/such.jsonl", "no/such.jsonl does not exist"),
        ("model.path=no/such/folder", "no/such/folder"),
        ("model.path=./no/such", "model folder ./no/such does not exist"),
        ("data.train={broken}", "broken.jsonl:1: field 'answer'"),
        ("eval.benchmarks=[{broken}]", "broken.jsonl:1: field 'answer'"),
        ("rollout.stop=[<nothing>]", "rollout.stop: '<nothing>' is 9 tokens"),
        (
            "model.shape={{layers: 9, hidden: 32, intermediate: 48, heads: 2, kv_heads: 1, "
            "head_dim: 32, vocab: 313, tied: true}}",
            "model.shape.layers = 9",
        ),
    ],
)
def test_a_wrong_setting_ends_training_with_one_sentence_and_writes_nothing(
    tiny, tmp_path: Path, capsys, override: str, part: str
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"problem": "a"}\n')
    line = refused(capsys, *tiny, override.format(broken=broken))
    assert part in line
    assert not (tmp_path / "run").exists()


# What is typed after `train.py --config pocket_asym` -> the sentence after "error: ".
MISTAKES = {
    # settings of another section, or under the name that another framework has for them
    "beta_pos=.9": "command line: unknown key beta_pos; did you mean advantage.beta_pos?",
    "lr=1e-6": "command line: unknown key lr; did you mean optim.lr?",
    "optim.learning_rate=1e-6": (
        "command line: unknown key optim.learning_rate; did you mean optim.lr?"
    ),
    "rolout.group_size=8": (
        "command line: unknown key rolout.group_size; did you mean rollout.group_size?"
    ),
    "rollout.grup_size=8": (
        "command line: unknown key rollout.grup_size; did you mean rollout.group_size?"
    ),
    "rollout.n=8": "command line: unknown key rollout.n; did you mean rollout.group_size?",
    "num_generations=8": (
        "command line: unknown key num_generations; did you mean rollout.group_size?"
    ),
    "batch_size=64": "command line: unknown key batch_size; did you mean rollout.prompts?",
    "max_tokens=64": (
        "command line: unknown key max_tokens; did you mean rollout.max_tokens or eval.max_tokens?"
    ),
    "temperature=0.7": (
        "command line: unknown key temperature; did you mean rollout.temperature or "
        "eval.sampling.NAME.temperature?"
    ),
    "model.name=gpt2": "command line: unknown key model.name; did you mean model.path?",
    "dataset=mine.jsonl": "command line: unknown key dataset; did you mean data.train?",
    "loss.entropy_coef=0.01": (
        "command line: unknown key loss.entropy_coef; did you mean loss.entropy_bonus?"
    ),
    "loss.kl_loss_coef=0.1": (
        "command line: unknown key loss.kl_loss_coef; did you mean loss.kl_coef?"
    ),
    "policy.bf16=true": (
        "command line: unknown key policy.bf16; did you mean policy.dtype=bfloat16?"
    ),
    "wandb=online": "command line: unknown key wandb; did you mean tracking.wandb?",
    "output_dir=runs/x": "command line: unknown key output_dir; did you mean --output-dir DIR?",
    "every=5": "command line: unknown key every; did you mean eval.every or checkpoint.every?",
    "save_steps=10": "command line: unknown key save_steps; did you mean checkpoint.every?",
    "checkpoint.best_on=pocket": (
        "command line: unknown key checkpoint.best_on; did you mean checkpoint.select.best_on?"
    ),
    "optim.zzz=3": (
        "command line: unknown key optim.zzz; valid keys are lr, minibatch_prompts, epochs, betas, "
        "weight_decay, max_grad_norm, lr_schedule, lr_floor, warmup_updates, warmup_share, "
        "max_skipped"
    ),
    # a value for a section
    "model=gpt2": (
        "command line: model = 'gpt2' is a value, but model is a section; did you mean "
        "model.path=gpt2?"
    ),
    "advantage=rloo": (
        "command line: advantage = 'rloo' is a value, but advantage is a section; did you mean "
        "advantage.name=rloo?"
    ),
    "eval.sampling.greedy=0": (
        "command line: eval.sampling.greedy = 0 is a value, but eval.sampling.greedy is a section; "
        "its keys are temperature, samples"
    ),
    # names of methods and verifiers
    "advantage.name=grpo": (
        "command line: advantage.name = 'grpo' is not an estimator: GRPO is asym with beta_pos 0.5 "
        "and beta_neg 0.5: use --row grpo, or advantage.name=asym advantage.beta_pos=0.5 "
        "advantage.beta_neg=0.5"
    ),
    "schedule.name=cosin": (
        "command line: schedule.name = 'cosin' must be one of constant, cosine, entropy_steering, "
        "fade, linear, peak_tracking, or path/to/file.py:function; did you mean cosine?"
    ),
    "reweight.name=cw_grpo": (
        "command line: reweight.name = 'cw_grpo' must be one of covariance_kernel, "
        "covariance_kernel_code, entropic_advantage, entropy_advantage, entropy_aware, "
        "high_entropy, none, quadrant, stare, or path/to/file.py:function; did you mean the row, "
        "--row cw_grpo?"
    ),
    "reweight.name=nope": (
        "command line: reweight.name = 'nope' must be one of covariance_kernel, "
        "covariance_kernel_code, entropic_advantage, entropy_advantage, entropy_aware, "
        "high_entropy, none, quadrant, stare, or path/to/file.py:function"
    ),
    "reweight=null": (
        "command line: reweight = None is a value, but reweight is a section; did you mean "
        "reweight.name=none?"
    ),
    "schedule.name=none": (
        "command line: schedule.name = 'none' must be one of constant, cosine, entropy_steering, "
        "fade, linear, peak_tracking, or path/to/file.py:function; did you mean constant?"
    ),
    "tracking.wandb=true": (
        "command line: tracking.wandb = True must be 'off', 'online' or 'offline'"
    ),
    "verifier.name=exact_match": (
        "command line: verifier.name = 'exact_match' must be one of exact, first_letter, line, "
        "math, math_verify, or path/to/file.py:function; did you mean exact?"
    ),
    "verifier.name=reward.py:score": (
        "command line: verifier.name: reward.py does not exist in the working directory, {here}"
    ),
    "advantage.beta=0.5": (
        "command line: advantage.beta is not valid: asym takes beta_pos, beta_neg"
    ),
    # values
    "rollout.group_size=1": (
        "command line: rollout.group_size = 1 must be greater than or equal to 2"
    ),
    "rollout.prompts=5": (
        "command line: optim.minibatch_prompts = 8 must divide rollout.prompts = 5"
    ),
    "steps=1e3": "command line: steps = 1000.0 must be an integer: steps=1000",
    "steps=ten": "command line: steps = 'ten' must be a valid integer",
    "eval.benchmarks=math500,aime24": (
        "command line: eval.benchmarks = 'math500,aime24' must be a list: "
        "eval.benchmarks=[math500,aime24]"
    ),
    "policy.dtype=bf16": "command line: policy.dtype = 'bf16' must be 'float32' or 'bfloat16'",
    "checkpoint.select=best": (
        "command line: checkpoint.select = 'best' must be last, or "
        "checkpoint.select.best_on=BENCHMARK"
    ),
    "advantage.beta_pos=-1": (
        "command line: advantage.beta_pos = -1 must be a number from 0 to 40"
    ),
    # the form
    "optim.lr 1e-6": "command line: 'optim.lr' must have the form key.sub=value",
    "--optim.lr=1e-6": (
        "command line: --optim.lr=1e-6 is not an option; settings are written key=value; did you "
        "mean optim.lr=1e-6?"
    ),
    "--steps 5": (
        "command line: --steps is not an option; settings are written key=value; did you mean "
        "steps=VALUE?"
    ),
    "--outputdir runs/x": (
        "command line: --outputdir is not an option; settings are written key=value; did you mean "
        "--output-dir DIR?"
    ),
    "--row gpro": (
        "row 'gpro' is neither a file nor a name in configs/rows/; the nearest are gspo, grpo, "
        "ngrpo"
    ),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_typical_mistake_gets_this_sentence(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "--config", "pocket_asym", *typed.split())
    assert line == f"error: {MISTAKES[typed].format(here=tmp_path)}"
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, capsys) -> None:
    """Not the command line, and not the files that are composed with it."""
    (tmp_path / "mine.yaml").write_text("base: pocket\nrow: asym\noptim: {learning_rate: 1}\n")
    line = refused(capsys, "--config", str(tmp_path / "mine.yaml"), "steps=3", "seed=1")
    sentence = "unknown key optim.learning_rate; did you mean optim.lr?"
    assert line == f"error: {tmp_path / 'mine.yaml'}: {sentence}"


def test_every_name_of_another_framework_stands_for_a_key_or_an_option() -> None:
    keys, options = all_keys(), vars(train.parse(["--config", "pocket"]))
    for ours in OTHER_NAMES.values():
        for name in re.split(" or |, ", ours):
            option = name.split()[0].lstrip("-").replace("-", "_")
            assert name.partition("=")[0] in keys or option in options, name


def test_a_missing_checkpoint_is_named(tiny, capsys) -> None:
    assert "no/such is not a checkpoint" in refused(capsys, *tiny, "--resume", "no/such")


def test_what_two_processes_cannot_do_is_refused(tiny, capsys, monkeypatch) -> None:
    there = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, text in there.items():
        monkeypatch.setenv(name, text)
    assert "--num_processes 1" in refused(capsys, *tiny, "policy.backend=local")
    assert "must divide" in refused(capsys, *tiny, "rollout.tensor_parallel=3")


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_folder_with_another_config_is_left_as_it_is(tiny, copy: Path, capsys) -> None:
    before = contents(copy)
    line = refused(capsys, *tiny, "seed=3", "optim.lr=0.1")
    assert "optim.lr, seed" in line
    assert "already holds a run" in refused(capsys, *tiny, "--resume", "never")
    other = copy / "checkpoints" / "step-000002"
    assert "already holds a run" in refused(capsys, *tiny, "--resume", str(other))
    assert contents(copy) == before


@pytest.mark.parametrize("damage", ["cut", "missing", "garbage"])
def test_a_damaged_checkpoint_is_refused_by_name(tiny, copy: Path, capsys, damage: str) -> None:
    state = copy / "checkpoints" / "latest" / checkpoint.state_file(0, 1)
    whole = state.read_bytes()
    match damage:
        case "cut":
            state.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            state.write_bytes(b"\0" * 100)
        case "missing":
            state.unlink()
    before = contents(copy)
    assert "step-000005" in refused(capsys, *tiny, "steps=6")
    assert contents(copy) == before


def test_a_latest_that_names_nothing_loses_nothing(tiny, copy: Path, capsys) -> None:
    shutil.rmtree(copy / "checkpoints" / "step-000005")
    before = contents(copy)
    assert "step-000004" in refused(capsys, *tiny)
    assert contents(copy) == before


def test_a_latest_that_leads_elsewhere_is_refused(tiny, copy: Path, tmp_path, capsys) -> None:
    link = copy / "checkpoints" / "latest"
    shutil.copytree(link.resolve(), tmp_path / "elsewhere")
    for aim, part in {
        str(tmp_path / "elsewhere"): "points outside its folder",
        "latest": "does not point at a checkpoint",
        "x" * 300: "does not point at a checkpoint",
    }.items():
        link.unlink()
        link.symlink_to(aim)
        assert part in refused(capsys, *tiny, "steps=6")


@pytest.mark.parametrize("order", [[0, 1, 3, 4, 5], [0, 1, 2, 2, 3, 4, 5], [0, 2, 1, 3, 4, 5]])
def test_metrics_with_a_gap_or_a_double_are_not_gone_on_with(tiny, copy, capsys, order) -> None:
    file = copy / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[n] for n in order))
    assert f"metrics.jsonl:{[n == m for m, n in enumerate(order)].index(False) + 1}: step" in (
        refused(capsys, *tiny, "steps=6")
    )


@pytest.mark.parametrize(
    "change", [{"step": "5"}, {"draws": -1}, {"updates": None}, {"schedule": {"a": float("nan")}}]
)
def test_a_trainer_json_that_makes_no_sense_is_refused(tiny, copy, capsys, change) -> None:
    trainer = copy / "checkpoints" / "latest" / "trainer.json"
    trainer.write_text(json.dumps(json.loads(trainer.read_text()) | change))
    line = refused(capsys, *tiny, "steps=6")
    assert "trainer.json is damaged" in line and next(iter(change)) in line


@pytest.mark.parametrize("change", ["left out", "another type", "another part"])
def test_a_state_that_is_not_whole_is_refused(tiny, copy: Path, capsys, change: str) -> None:
    file = copy / "checkpoints" / "latest" / checkpoint.state_file(0, 1)
    held = load_file(file)
    name = sorted(key for key in held if key.startswith("exp_avg/"))[1]
    tensor = held.pop(name)
    match change:
        case "another type":
            held[name] = tensor.view(torch.int32)
        case "another part":
            held[name], held["more/of.it"] = tensor, tensor.clone()
    save_file(held, file)
    trainer = file.parents[1] / "trainer.json"  # by someone who knows of the digests
    known = json.loads(trainer.read_text())
    known["files"][checkpoint.state_file(0, 1)] = file_digest(file)
    known["seal"] = checkpoint.seal(known)
    trainer.write_text(json.dumps(known))
    line = refused(capsys, *tiny, "steps=6")
    assert ("more/of.it" if change == "another part" else name.partition("/")[2]) in line


@pytest.mark.parametrize("text", ["{", "{}", "null", "[" * 100_000])
def test_a_damaged_environment_json_is_named_and_kept(copy: Path, text: str) -> None:
    (copy / "environment.json").write_text(text)
    with pytest.raises(UserError, match=r"environment\.json: "):
        environment.write_environment(copy, 1, "hf and local")
    assert (copy / "environment.json").read_text() == text


def test_a_folder_with_somebody_elses_metrics_is_left_alone(tiny, tmp_path: Path, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("mine\n")
    assert "no config.yaml" in refused(capsys, *tiny)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("line", [b"{broken\n", b"\xff\xfe\n", b'{"step": null}\n', b"5\n"])
def test_damaged_metrics_are_named_and_kept(tiny, copy: Path, capsys, line: bytes) -> None:
    lines = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_bytes(b"".join([*lines[:2], line, *lines[3:]]))
    before = contents(copy)
    assert "metrics.jsonl:3" in refused(capsys, *tiny, "steps=6")
    after = contents(copy)
    assert {k: v for k, v in after.items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_a_folder_in_use_is_refused(tiny, copy: Path, capsys) -> None:
    with (copy / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is training" in refused(capsys, *tiny, "steps=6")


def test_a_checkpoint_of_another_format_or_past_the_end_is_refused(tiny, copy, capsys) -> None:
    trainer = copy / "checkpoints" / "latest" / "trainer.json"
    elsewhere = [*tiny, "--output-dir", str(copy.parent / "other"), "--resume", trainer.parent]
    assert "leaves nothing to do" in refused(capsys, *elsewhere)
    trainer.write_text(json.dumps(json.loads(trainer.read_text()) | {"format": 99}))
    assert "format 99" in refused(capsys, *tiny, "steps=6")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"prompt": null}'])
def test_damaged_definitions_are_named(copy: Path, tmp_path: Path, capsys, text: str) -> None:
    file = copy / "checkpoints" / "latest" / "asymrl.json"
    file.write_text(text)
    arguments = ["--ckpt", str(file.parent), "--output", str(tmp_path / "out")]
    assert "asymrl.json" in refused(capsys, *arguments, program=evaluation)


def test_an_output_folder_that_is_a_file_is_refused(tiny, tmp_path: Path, capsys) -> None:
    (tmp_path / "run").write_text("mine")
    assert "is a file" in refused(capsys, *tiny)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--ckpt", "no/such/model"], "no/such/model"),
        (["--ckpt", "{ckpt}", "--avg-at", "0"], "--avg-at 0"),
        (["--ckpt", "{ckpt}", "--temperature", "-1"], "--temperature -1"),
        (["--ckpt", "{ckpt}", "--benchmarks", "aime99"], "'aime99' is unknown; valid are"),
        (["--ckpt", "{ckpt}", "--benchmarks", "math,math"], "two benchmarks are called math"),
        (["--ckpt", "{ckpt}", "--chunk", "0"], "--chunk 0"),
        (["--ckpt", "{ckpt}", "--data-dir", "no/such"], "--data-dir no/such"),
    ],
)
def test_evaluation_refuses_in_one_sentence(
    finished: Path,
    tmp_path: Path,
    capsys,
    arguments: list[str],
    part: str,
) -> None:
    ckpt = str(finished / "checkpoints" / "latest")
    given = [argument.format(ckpt=ckpt) for argument in arguments]
    line = refused(capsys, *given, "--output", str(tmp_path / "out"), program=evaluation)
    assert part in line
    assert not (tmp_path / "out" / "summary.json").exists()


def test_evaluation_of_a_checkpoint_takes_its_definitions(
    finished: Path,
    tmp_path: Path,
    capsys,
) -> None:
    data = {"id": "a", "problem": "What is 1 + 1 (mod 13)?", "answer": "2"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(data) + "\n")
    arguments = ["--ckpt", str(finished / "checkpoints" / "latest"), "--benchmarks", "mine"]
    arguments += ["--data-dir", str(tmp_path), "--avg-at", "3", "--output", str(tmp_path / "out")]
    assert evaluation.main(arguments) == 0
    assert "mine" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["sampling"]["max_tokens"] == 6 and summary["sampling"]["temperature"] == 0.4
    assert summary["benchmarks"]["mine"]["samples"] == 3
    assert len((tmp_path / "out" / "mine.jsonl").read_text().splitlines()) == 3


def test_evaluation_reads_the_columns_of_the_training_data_if_they_are_there(
    copy: Path, one_problem, tmp_path: Path
) -> None:
    file = copy / "checkpoints" / "latest" / "asymrl.json"
    definitions = json.loads(file.read_text())
    assert definitions["columns"] == {"problem": None, "answer": None}
    columns = {"problem": "q", "answer": "gold"}
    file.write_text(json.dumps(definitions | {"columns": columns}))
    usual, own = {"problem": "1", "answer": "2"}, {"q": "3", "gold": "4"}
    evaluate = ["--ckpt", str(file.parent), *one_problem[2:], "--replace", "--avg-at", "1"]
    flags = ["--problem-field", "problem"]
    for data, more, gold in ((usual, (), "2"), (usual | own, (), "4"), (usual | own, flags, "4")):
        (tmp_path / "some.jsonl").write_text(json.dumps(data) + "\n")
        assert evaluation.main([*evaluate, *more]) == 0
        (row,) = (tmp_path / "out" / "some.jsonl").read_text().splitlines()
        assert json.loads(row)["gold"] == gold


def test_the_papers_protocol_takes_fewer_samples_of_the_large_benchmarks(
    finished: Path, tmp_path: Path, capsys
) -> None:
    data = {"id": "a", "problem": "What is 1 + 1 (mod 13)?", "answer": "2"}
    for name in ("math500", "aime24", "olympiadbench_train"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(data) + "\n")
    arguments = ["--ckpt", str(finished / "checkpoints" / "latest"), "--data-dir", str(tmp_path)]
    arguments += ["--benchmarks", "math500,aime24,olympiadbench_train"]
    arguments += ["--output", str(tmp_path / "out")]
    line = refused(capsys, *arguments, "--avg-at", "paper", program=evaluation)
    assert "has 1 problems, but math500 has 500" in line and not (tmp_path / "out").exists()
    arguments += ["--allow-count"]
    assert evaluation.main([*arguments, "--avg-at", "paper"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["benchmarks"]
    assert {name: scores["samples"] for name, scores in summary.items()} == {
        "math500": 5,
        "aime24": 10,
        "olympiadbench_train": 5,
    }


def test_an_untrained_model_is_asked_as_its_config_asks(tiny, tmp_path: Path, capsys) -> None:
    config = tmp_path / "mine.yaml"
    settings = ["data.user=Hear {problem}", "eval.limit=1"]
    config.write_text(dump_config(load_config(tiny[1], settings)))
    data = {"problem": "What is 1 + 1 (mod 13)?", "answer": "2"}
    (tmp_path / "some.jsonl").write_text(2 * (json.dumps(data) + "\n"))
    arguments = ["--config", str(config), "--data-dir", str(tmp_path), "--benchmarks", "some"]
    assert evaluation.main([*arguments, "--avg-at", "1", "--output", str(tmp_path / "out")]) == 0
    (row,) = (tmp_path / "out" / "some.jsonl").read_text().splitlines()
    assert "Hear What is 1 + 1" in json.loads(row)["prompt"]
    assert "note: eval.limit = 1 of the config applies" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["sampling"]["max_tokens"] == 6


@pytest.fixture
def one_problem(copy: Path, tmp_path: Path) -> list[str]:
    """Arguments of an evaluation of one problem."""
    data = {"id": "a", "problem": "What is 1 + 1 (mod 13)?", "answer": "2"}
    (tmp_path / "some.jsonl").write_text(json.dumps(data) + "\n")
    arguments = ["--ckpt", str(copy / "checkpoints" / "latest"), "--data-dir", str(tmp_path)]
    return [*arguments, "--benchmarks", "some", "--output", str(tmp_path / "out")]


def test_a_checkpoint_without_its_chat_template_is_refused(one_problem, copy, capsys) -> None:
    (copy / "checkpoints" / "latest" / "chat_template.jinja").unlink()
    line = refused(capsys, *one_problem, program=evaluation)
    assert "no chat template" in line and "asymrl.json" in line
    assert not Path(one_problem[-1]).exists()


def test_what_is_not_as_in_training_is_said(one_problem, copy, capsys) -> None:
    assert evaluation.main([*one_problem, "--temperature", "1"]) == 0
    assert "differs from" not in capsys.readouterr().err
    assert evaluation.main([*one_problem, "--max-tokens", "3", "--replace"]) == 0
    note = capsys.readouterr().err
    assert "differs from the evaluations during training: max_tokens 3 (training: 6)" in note


def test_responses_beyond_the_models_positions_are_refused(
    one_problem, model_folder, capsys
) -> None:
    line = refused(capsys, *one_problem, "--max-tokens", "1020", program=evaluation)
    assert "has 1024; use --max-tokens 1019 or less" in line
    plain = [*one_problem[2:], "--ckpt", str(model_folder), "--avg-at", "1"]
    assert evaluation.main(plain) == 0  # a default gives way
    assert "the model has 1024 positions" in capsys.readouterr().err


def test_an_engine_that_is_not_there_is_refused(one_problem, capsys, monkeypatch) -> None:
    monkeypatch.setattr("asymrl.engines.build.find_spec", lambda name: None)
    assert "--engine vllm, but vLLM is not installed" in refused(
        capsys, *one_problem, "--engine", "vllm", program=evaluation
    )


def test_an_output_folder_with_other_files_is_refused(one_problem, tmp_path, capsys) -> None:
    """Such as the folder of the data. An earlier evaluation there is resumed, whatever it has."""
    notes = tmp_path / "out" / "notes.md"
    notes.parent.mkdir()
    notes.write_text("mine")
    line = refused(capsys, *one_problem, program=evaluation)
    assert "out already holds other files (notes.md); use a new or an empty folder" in line
    notes.unlink()
    assert evaluation.main(one_problem) == 0
    notes.write_text("mine")
    assert evaluation.main(one_problem) == 0


def test_an_output_folder_in_use_is_refused(one_problem, capsys) -> None:
    Path(one_problem[-1]).mkdir()
    with (Path(one_problem[-1]) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is evaluating" in refused(capsys, *one_problem, program=evaluation)


def test_a_checkpoint_with_another_chat_template_is_refused(
    copy: Path, tmp_path: Path, capsys
) -> None:
    checkpoint = copy / "checkpoints" / "latest"
    template = checkpoint / "chat_template.jinja"
    template.write_text("Well: " + template.read_text())
    arguments = ["--ckpt", str(checkpoint), "--output", str(tmp_path / "out")]
    line = refused(capsys, *arguments, program=evaluation)
    assert "chat template differs from the one used in training" in line


def test_a_report_of_no_run_is_refused(tmp_path: Path, capsys) -> None:
    line = refused(capsys, str(tmp_path / "nothing"), program=__main__)
    assert "nothing" in line
