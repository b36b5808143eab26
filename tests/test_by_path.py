"""Functions of the user's own, by path: loaded, called with what they name, tied to their file."""

import json
import os
import signal
from pathlib import Path

import pytest

import eval as evaluation
import train
from asymrl import by_path
from asymrl.algo.schedules import StepStats
from asymrl.config.load import load_config
from asymrl.errors import UserError
from asymrl.verifiers import make
from tests.helpers.runs import comparable, metrics, run

pytestmark = pytest.mark.slow  # starts processes

OWN = """
import os
from typing import Literal

def first_letter(response):
    return bool(response) and ord(response[0]) % 2 == 0

def fields(response, gold, prompt, row):
    return (response, gold, prompt, row["unit"]) == ("r", "g", "p", "cm")

def part(*, row, scale=1):
    return row["unit"] == "cm" and scale == 1

def returns(response):
    return {"true": True, "one": 1, "one.": 1.0, "half": 0.5, "none": None, "yes": "yes"}[response]

def half(response, gold):
    return 0.5 if response not in ("", gold, f"The answer is {gold}.") else False

def raises_always(response, gold):
    return response["answer"] == gold

def hangs(response):
    while response == "hang":
        pass
    return True

def pid(response, gold):
    if response == "write":
        open(gold, "w").write(str(os.getpid()))
    return True

def asymmetric(groups, beta_pos=0.9, *, beta_neg):
    p = groups.rewards.mean(1, keepdim=True)
    positive = ((1 - p) / p).nan_to_num(posinf=0) ** beta_pos
    negative = (p / (1 - p)).nan_to_num(posinf=0) ** beta_neg
    return positive * (groups.rewards == 1) - negative * (groups.rewards == 0)

def z_score(groups):
    rewards = groups.rewards
    return (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)

def of_groups(groups):
    return groups.rewards.mean(1)

def a_number(groups):
    return 1

def of_twenty(groups):
    return groups.rewards.flatten()[:20].view(5, 4)

def of_forty(tokens):
    return tokens.advantages[:40]

def divides(tokens):
    return 1 / (tokens.advantages + 1)

def later_a_list(groups):
    return groups.rewards if (groups.lengths == 1).all() else [0]

def later_nan(tokens):
    return tokens.advantages.where(tokens.logprobs == -1, float("nan"))

def later_raises(state, stats):
    return dict(state) if stats.kappa == 0.1 else stats.nothing

def raises(groups):
    return groups.reward

def bounded(groups, *, gamma: float = 1.0):
    assert gamma < 2, "gamma must be below 2"
    return groups.rewards * gamma

def with_mode(groups, *, mode: Literal["up", "down"] = "up"):
    return groups.rewards if mode == "up" else -groups.rewards

def with_text(groups, *, mode="up"):
    return groups.rewards

def same_for_all(tokens):
    return tokens.advantages.mean()

def reinforce(inputs, *, scale: float = 1.0):
    ratio = (inputs.logprobs - inputs.old_logprobs).exp()
    return -scale * ratio * inputs.advantages

def summed(inputs):
    return reinforce(inputs).sum()

def detached(inputs):
    return reinforce(inputs).detach()

def infinite(inputs):
    return reinforce(inputs) / 0

def of_the_part(inputs):
    return reinforce(inputs) - inputs.logprobs.mean()

def of_some(inputs):
    return reinforce(inputs) - inputs.logprobs.max().detach()

def to_reference(inputs, coef=1):
    return inputs.logprobs - inputs.reference_logprobs

def collides(inputs, *, kl_coef=0.1):
    return reinforce(inputs)

def alpha_falls(state, stats):
    return {**state, "alpha": state["alpha"] - 0.1}

def forgets(state, stats):
    return {"beta_pos": 0.5}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """own.py in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_a_relative_path_is_relative_to_the_working_directory(own: Path, tmp_path: Path) -> None:
    assert by_path.load("own.py:fields").call is by_path.load(f"{own}:fields").call
    (tmp_path / "sub").mkdir()
    os.chdir(tmp_path / "sub")
    with pytest.raises(UserError, match=r"does not exist in the working directory, .*sub"):
        by_path.load("own.py:fields")
    assert by_path.load("../own.py:fields").call


def test_a_file_can_import_what_lies_beside_it(own: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "beside_it.py").write_text("def right(): return 3\n")
    text = "from beside_it import right\ndef f(response): return right() == 3\n"
    (tmp_path / "folder" / "user.py").write_text(text)
    with make("folder/user.py:f", workers=1) as verifier:
        assert verifier.submit("", "").result().reward == 1


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("f.py:reward", "def score(): ...\ndef rewards(): ...", "f.py has no function reward; did"),
        ("f.py:x", "def score(): ...\ndef _hidden(): ...", "no function x; it has score"),
        ("f.py:x", "from os.path import join", "no function x; it has no functions"),
        ("f.py", "def score(): ...", "must have the form path/to/file.py:function; f.py has score"),
        ("f.py:a.b", "", "'f.py:a.b' must have the form"),
        ("folder/f:score", "", "'folder/f:score' must have the form path/to/file.py:function"),
        ("f.py:score", "\ndef score(:", "f.py, line 2: SyntaxError: invalid syntax"),
        ("f.py:score", "x = 1\ny = z", "f.py, line 2: NameError: name 'z' is not defined"),
        ("f.py:score", "import nothing_like_it", "f.py, line 1: ModuleNotFoundError: No module"),
        ("f.py:score", "exit(3)", "f.py, line 1: SystemExit: 3"),
        ("f.py:score@0123456789abcdef", "def score(): ...", "f.py has changed: its digest is "),
        ("folder.py:score", "", "folder.py cannot be read: [Errno 21] Is a directory"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(own: Path, name: str, text: str, part: str) -> None:
    (own.parent / "folder.py").mkdir()
    (own.parent / "f.py").write_text(text)
    with pytest.raises(UserError) as raised:
        by_path.load(name)
    assert part in str(raised.value)


def test_a_verifier_is_called_with_those_fields_that_it_names(own: Path) -> None:
    context = {"prompt": "p", "row": {"unit": "cm", "day": Path("no JSON type")}}
    for function in ("fields", "part"):
        with make(f"own.py:{function}", workers=1) as verifier:
            assert verifier.submit("g", "r", **context).result().reason == "correct"
            assert verifier.submit("g", "r", prompt="p", row={"unit": "m"}).result().reward == 0
            assert verifier.check("any gold").result()


@pytest.mark.parametrize(
    ("signature", "part"),
    [
        ("completions, **kwargs", "requires the parameter completions; a verifier may take"),
        ("*responses", "requires the parameter responses"),
        ("scale=1", "takes none of response, gold, prompt and row"),
    ],
)
def test_a_verifier_with_another_signature_is_refused(own: Path, signature, part) -> None:
    (own.parent / "f.py").write_text(f"def f({signature}): return True\n")
    with pytest.raises(UserError, match=part):
        make("f.py:f")
    with pytest.raises(UserError, match=part):
        load_config("pocket_asym", ["verifier.name=f.py:f"])


def test_rewards_are_binary_and_anything_else_ends_the_run_in_one_sentence(own: Path) -> None:
    with make("own.py:returns", workers=1) as verifier:
        for word in ("true", "one", "one."):
            assert verifier.submit("", word).result().reason == "correct"
        for word, value in (("half", "0.5"), ("none", "None"), ("yes", "'yes'")):
            sentence = f"own.py:returns returned {value} for the response '{word}'; rewards are b"
            with pytest.raises(UserError, match=sentence):
                verifier.submit("", word).result()
        assert verifier.submit("", "true").result().reward == 1


def test_exceptions_are_verdicts_and_the_first_traceback_is_shown(own: Path, caplog) -> None:
    with make("own.py:returns", workers=1) as verifier:
        verdicts = [verifier.submit("", word).result() for word in ("a", "b", "true")]
    assert [verdict.reason for verdict in verdicts] == ["crashed", "crashed", "correct"]
    (record,) = caplog.records
    assert "KeyError: 'a'" in record.getMessage() and "in returns" in record.getMessage()
    assert "verifiers/own.py" not in record.getMessage()


def test_the_deadline_holds(own: Path) -> None:
    with make("own.py:hangs", workers=1, timeout=0.5) as verifier:
        assert verifier.submit("", "hang").result().reason == "timeout"
        assert verifier.submit("", "").result().reason == "correct"


def test_an_edit_does_not_change_a_verifier_that_runs(own: Path, tmp_path: Path) -> None:
    with make("own.py:pid", workers=1) as verifier:
        assert verifier.submit(str(tmp_path / "pid"), "write").result().reward == 1
        own.write_text(OWN.replace("return True", "return False"))
        assert verifier.submit("", "").result().reward == 1
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        with pytest.raises(UserError, match=r"own\.py has changed"):
            while True:  # until the pool notices that the worker is gone
                verifier.submit("", "").result()


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ("advantage.name=own.py:asymmetric", "advantage.beta_neg is missing: own.py:asymmetric"),
        ("advantage={name: own.py:bounded, gama: 1}", "own.py:bounded takes gamma"),
        ("advantage={name: own.py:bounded, gamma: 2}", "AssertionError: gamma must be below 2"),
        ("advantage={name: own.py:bounded, gamma: x}", "advantage.gamma = 'x' must be a number"),
        ("advantage={name: own.py:with_mode, mode: x}", "mode = 'x' must be one of down, up"),
        ("advantage.name=own.py:with_text", "advantage.mode = 'up' must be a number, or one of"),
        ("advantage.name=own.py:z_score", "[nan, nan, nan, nan] for a group with the rewards [0.0"),
        (
            "advantage.name=own.py:of_groups",
            "a tensor of shape (5,); the shape must be (5, 4) =",
        ),
        ("advantage.name=own.py:a_number", "own.py:a_number returned 1; it must be a torch.Tensor"),
        ("advantage.name=own.py:raises", "AttributeError: 'Groups' object has no attribute 'rewar"),
        ("advantage.name=own.py:of_twenty", "shape (5, 4); the shape must be (32, 8) = (N, G)"),
        ("reweight.name=own.py:of_forty", "shape (40,); the shape must be (512,) = (M,)"),
        ("reweight.name=own.py:divides", "returned inf for a token with the advantage -1; every"),
        ("reweight.name=own.py:same_for_all", "the shape must be (40,) = (M,), as the advantages"),
        (
            "loss.name=own.py:summed",
            "a tensor of shape (); the shape must be (40,) = (M,)",
        ),
        ("loss={name: own.py:reinforce, clip_low: 1}", "loss.clip_low is not valid: own.py:reinf"),
        (
            "loss.name=own.py:detached",
            "own.py:detached returned losses without a gradient",
        ),
        ("loss.name=own.py:infinite", "for a token with the log-prob"),
        ("loss.name=own.py:of_the_part", "other losses for two halves of a mini-batch"),
        ("loss.name=own.py:of_some", "max(): Expected reduction dim"),
        ("loss.name=own.py:to_reference", "TypeError: unsupported operand type(s) for -"),
        (
            "loss.name=own.py:collides",
            "own.py:collides has a parameter kl_coef, but loss.kl_coef",
        ),
        ("schedule.name=own.py:alpha_falls", "KeyError: 'alpha'"),
        ("schedule.name=own.py:forgets", "a dict of finite numbers with beta_pos, beta_neg"),
        ("verifier.name=nowhere.py:f", "verifier.name: nowhere.py does not exist in the working"),
    ],
)
def test_a_function_that_cannot_work_is_refused_before_the_run(own: Path, overrides, part) -> None:
    with pytest.raises(UserError) as raised:
        load_config("pocket_asym", [overrides])
    assert part in str(raised.value)


def test_a_verifier_that_raises_for_every_made_up_response_is_one_sentence(
    own: Path, config_file: Path, tmp_path: Path, capsys
) -> None:
    command = ["--config", str(config_file), "--output-dir", str(tmp_path / "run")]
    assert train.main([*command, "verifier.name=own.py:raises_always"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "raises for each of three responses to problem 0, such as 'The answer is 0.'" in line
    assert "TypeError: string indices must be integers" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("verifier.name=own.py:half", "rewards are binary: return True or False (problem "),
        (
            "advantage.name=own.py:later_a_list",
            "later_a_list returned [0]; it must be a torch.Tensor",
        ),
        ("reweight.name=own.py:later_nan", "own.py:later_nan returned nan for a token with the ad"),
        ("schedule.name=own.py:later_raises", "schedule.name: own.py, line "),
    ],
)
def test_a_function_that_fails_in_training_ends_the_run_and_the_mended_one_starts(
    own: Path, config_file: Path, tmp_path: Path, capsys, override: str, part: str
) -> None:
    command = ["--config", str(config_file), "--output-dir", str(tmp_path / "run"), "steps=1"]
    assert train.main([*command, override]) == 2
    assert part in capsys.readouterr().err.splitlines()[-1]
    mended = {
        "0.5 if response": "True if response",
        "else [0]": "else groups.rewards",
        'float("nan")': "0.0",
        "else stats.nothing": "else state",
    }
    for wrong, right in mended.items():
        own.write_text(own.read_text().replace(wrong, right))
    assert train.main([*command, override]) == 0


def test_parameters_are_config_keys_with_the_functions_defaults(own: Path) -> None:
    config = load_config("pocket", ["advantage={name: own.py:bounded, gamma: -1}"])
    assert config.advantage.params == {"gamma": -1.0}
    config = load_config("pocket", ["advantage={name: own.py:asymmetric, beta_neg: 1}"])
    assert config.advantage.params == {"beta_pos": 0.9, "beta_neg": 1.0}
    assert load_config("pocket", ["advantage={name: own.py:with_mode, mode: down}"])


def test_an_own_schedule_may_change_any_parameter_of_the_estimator(own: Path) -> None:
    config = load_config("pocket", ["advantage.name=fade", "schedule.name=own.py:alpha_falls"])
    stats = StepStats(step=1, steps=2, accuracy=(), solved=0.5, kappa=0.0, entropy=1.0)
    new = config.schedule.function({"alpha": 3.0, "delta": 1.0}, stats)
    assert new == {"alpha": 2.9, "delta": 1.0}


def test_an_own_loss_gets_the_reference_with_a_kl_penalty(own: Path) -> None:
    assert load_config("pocket", ["loss.name=own.py:to_reference", "loss.kl_coef=0.1"])


METHOD = ("verifier.name=own.py:first_letter", "advantage.name=own.py:asymmetric")
BETAS = ("advantage.beta_pos=.9", "advantage.beta_neg=.4")


def test_a_run_with_own_functions_equals_one_with_the_same_functions_of_the_package(
    own: Path, config_file: Path, finished: Path, tmp_path: Path
) -> None:
    folder = run(config_file, tmp_path / "run", *METHOD, *BETAS)
    for row, expected in zip(comparable(folder), comparable(finished), strict=True):
        times = {name for name in row if name.startswith("perf/")}
        assert {k: v for k, v in row.items() if k not in times} == pytest.approx(
            {k: v for k, v in expected.items() if k not in times}, abs=1e-6, nan_ok=True
        )


def test_a_run_with_an_own_loss_equals_one_with_a_clip_that_never_binds(
    own: Path, config_file: Path, tmp_path: Path
) -> None:
    wide = ("loss.clip_low=1.0", "loss.clip_high=40")
    mine, theirs = (
        comparable(run(config_file, tmp_path / name, "steps=2", *overrides))
        for name, overrides in (("mine", ["loss.name=own.py:reinforce"]), ("theirs", wide))
    )
    norms = [[row["optim/grad_norm"] for row in rows if row["step"]] for rows in (mine, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and len(norms[0]) == 2


@pytest.fixture
def short(own: Path, config_file: Path, tmp_path: Path) -> list[str]:
    arguments = ["--config", str(config_file), "--output-dir", str(tmp_path / "run"), *METHOD]
    assert train.main([*arguments, *BETAS, "steps=1"]) == 0
    return [*arguments, *BETAS]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_resume_with_another_content_is_refused_and_names_the_file(
    short: list[str], own: Path, tmp_path: Path, capsys
) -> None:
    digest = by_path.load("own.py:fields").name.rpartition("@")[2]
    for file in ("config.yaml", "checkpoints/latest/asymrl.json"):
        assert f"own.py:first_letter@{digest}" in (tmp_path / "run" / file).read_text()
    before = contents(tmp_path / "run")
    own.write_text(OWN + "\n# edited\n")
    assert train.main([*short, "steps=2"]) == 2
    (line,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
    assert "run/config.yaml: verifier.name: own.py has changed" in line and digest in line
    assert contents(tmp_path / "run") == before
    own.write_text(OWN)
    assert train.main([*short, "steps=2"]) == 0
    assert metrics(tmp_path / "run")[-1]["step"] == 2


def test_an_evaluation_uses_the_function_and_says_when_it_has_changed(
    short: list[str], own: Path, tmp_path: Path, capsys
) -> None:
    data = tmp_path / "some.jsonl"
    data.write_text(json.dumps({"problem": "a", "answer": "2"}) + "\n")
    ckpt = tmp_path / "run" / "checkpoints" / "latest"
    arguments = ["--ckpt", str(ckpt), "--data-dir", str(tmp_path), "--benchmarks", "some"]
    arguments += ["--avg-at", "8", "--output", str(tmp_path / "out")]
    assert evaluation.main(arguments) == 0
    assert "own.py" not in capsys.readouterr().err
    for line in (tmp_path / "out" / "some.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["reward"] == (bool(row["response"]) and ord(row["response"][0]) % 2 == 0)
    own.write_text(OWN + "\n# edited\n")
    assert evaluation.main(arguments) == 2
    assert "verifier" in capsys.readouterr().err  # its samples have another verifier
    assert evaluation.main([*arguments, "--replace"]) == 0
    assert "note: own.py has changed since training" in capsys.readouterr().err
    own.unlink()
    assert evaluation.main(arguments) == 2
    assert "asymrl.json: verifier.name: own.py does not exist in the" in capsys.readouterr().err


def test_code_that_comes_with_a_checkpoint_is_not_run(
    short: list[str], own: Path, tmp_path: Path, capsys
) -> None:
    ckpt = (tmp_path / "run" / "checkpoints" / "latest").resolve()
    (tmp_path / "run" / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    text = (ckpt / "asymrl.json").read_text()
    (ckpt / "asymrl.json").write_text(text.replace("own.py", "run/theirs.py"))
    assert evaluation.main(["--ckpt", str(ckpt), "--output", str(tmp_path / "out")]) == 2
    assert "is inside the folder of the model, whose code is not run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
