"""The whole stack as users launch it: two processes with vLLM and ZeRO-3 each, joined by gloo."""

import json
import math
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from asymrl.run import checkpoint
from tests.helpers.paths import BIN, ROOT
from tests.helpers.vllm import why_not

pytestmark = [
    pytest.mark.skipif(
        bool(why_not()) or find_spec("deepspeed") is None,
        reason=why_not() or "DeepSpeed is not installed: `make stack` installs it without a GPU",
    ),
    pytest.mark.timeout(1500),
]
ACCELERATE = ["accelerate", "launch", "--use_deepspeed", "--zero_stage", "3"]
ACCELERATE += ["--num_processes", "2"]
TORCHRUN = ["torchrun", "--nproc-per-node", "2"]
STACK = ["rollout.engine=vllm", "rollout.sync_check_every=1", "verifier.name=exact"]


def launch(*command: str, code: int = 0) -> str:
    """The output of a command, which does not inherit the variables of an outer launcher."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == (code == 0), output[-6000:]
    return output


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def comparable(row: dict[str, Any]) -> dict[str, float]:
    timeless = {n: x for n, x in row.items() if n.split("/")[0] not in ("time", "perf")}
    return {name: math.nan if x is None else x for name, x in timeless.items()}


def test_two_ranks_pass_the_tests_of_policies_and_ranks(tmp_path: Path) -> None:
    """One launch of two processes, which run five test files at the same time."""
    files = (
        "tests/engines/test_policies.py tests/engines/test_sharded.py tests/engines/test_lora.py"
    )
    files += " tests/engines/test_reference.py tests/stack/two_ranks.py"
    # -k matches names. `offloaded` runs one of its splits here: a budget of 40 tokens, with a bonus
    chosen = "not local and not (any_split and offloaded and not False-40-0.1)"
    inner = (
        f"exec {sys.executable} -m pytest {files} -k '{chosen}' -x -q -p no:cacheprovider "
        f"--timeout 120 --basetemp={tmp_path}/rank$RANK"
    )
    output = launch("torchrun", "--nproc-per-node", "2", "--no-python", "bash", "-c", inner)
    assert output.count(" passed") == 2 and "skipped" not in output, output[-6000:]


@pytest.fixture(scope="module")
def whole(config_file: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stack") / "whole"
    command = [*ACCELERATE, "train.py", "--config", str(config_file), "--output-dir", str(folder)]
    output = launch(*command, *STACK, "steps=3")
    assert "rollouts: vllm (as configured); policy: deepspeed (2 processes share it)" in output
    assert output.count("step 3/3") == 1  # only rank 0 prints
    return folder


def test_a_run_on_the_stack_logs_the_same_metrics_as_any_run(whole: Path, finished: Path) -> None:
    ours, theirs = metrics(whole), metrics(finished)
    assert [row["step"] for row in ours] == [0, 1, 2, 3]
    by_accuracy = ("groups/accuracy/", "pressure/")  # only for accuracies that occur
    names = [
        {name for name in row if not name.startswith(by_accuracy)} for row in (ours[1], theirs[1])
    ]
    assert names[0] == names[1]
    assert all(0 <= row["rollout/logprob_mismatch_max"] < 1e-4 for row in ours[1:])
    assert any(
        row["rollout/logprob_mismatch_max"] > 0 for row in ours[1:]
    )  # vLLM rounds differently
    (facts,) = json.loads((whole / "environment.json").read_text())
    assert facts["processes"] == 2 and "deepspeed" in facts["engines"]
    assert (whole / "checkpoints" / "step-000003" / "config.json").is_file()


def test_a_resumed_run_continues_from_its_state(
    whole: Path, config_file: Path, tmp_path: Path
) -> None:
    """From step 1, with torchrun. State and metrics are equal, because every step seeds the
    engine."""
    folder = tmp_path / "resumed"
    shutil.copytree(whole, folder, symlinks=True)
    for step in (2, 3):
        shutil.rmtree(folder / "checkpoints" / f"step-00000{step}")
    checkpoint.point_link(folder / "checkpoints", "latest", "step-000001")
    launch(
        *(*TORCHRUN, "train.py", "--config", str(config_file), "--output-dir", str(folder)),
        *(*STACK, "steps=3"),
    )
    for ours, theirs in list(zip(metrics(folder), metrics(whole), strict=True))[2:]:
        expected = pytest.approx(comparable(theirs), rel=1e-3, abs=1e-4, nan_ok=True)
        assert comparable(ours) == expected
    (_, resumed) = json.loads((folder / "environment.json").read_text())
    assert resumed["processes"] == 2
    for rank in (0, 1):
        file = f"checkpoints/step-000003/{checkpoint.state_file(rank, 2)}"
        state, same = load_file(folder / file), load_file(whole / file)
        assert state.keys() == same.keys()
        assert all(torch.allclose(state[name], same[name], atol=1e-5) for name in same)


def test_a_run_moves_from_two_ranks_to_one_process_and_back(whole: Path, config_file: Path) -> None:
    """And to another engine and backend: all policies write the same state format."""
    arguments = ["--config", str(config_file), "--output-dir", str(whole), *STACK[1:], "steps=4"]
    assert train.main(arguments) == 0
    launch(*TORCHRUN, "train.py", *arguments[:-1], "steps=5", "rollout.engine=hf")
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["optim/updates"] for row in rows[1:]] == [2, 4, 6, 8, 10]
    started = json.loads((whole / "environment.json").read_text())
    assert [each["processes"] for each in started] == [2, 1, 2]
    assert "local" in started[1]["engines"] and "deepspeed" in started[2]["engines"]


def test_vllm_opens_the_checkpoint_as_it_is(whole: Path) -> None:
    """In a new process, with vLLM's own loader, as in `vllm serve`."""
    code = f"""
import os
os.environ |= {{"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}}
from vllm import LLM, SamplingParams
llm = LLM({str(whole / "checkpoints" / "latest")!r}, enforce_eager=True, dtype="float32",
          max_model_len=64, distributed_executor_backend="uni", kv_cache_memory_bytes=2**28)
(out,) = llm.generate("What is 3?", SamplingParams(temperature=0, max_tokens=5, logprobs=0))
print("ANSWER", list(out.outputs[0].token_ids), [p[t].logprob for p, t in
      zip(out.outputs[0].logprobs, out.outputs[0].token_ids)])
"""
    output = launch(sys.executable, "-c", code)
    folder = whole / "checkpoints" / "latest"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids, logprobs = eval(output.split("ANSWER ")[1].splitlines()[0].replace("] [", "], ["))
    prompt = tokenizer("What is 3?")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    dense = logits.log_softmax(-1)
    assert ids == dense.argmax(-1).tolist()
    assert logprobs == pytest.approx(dense.max(-1).values.tolist(), abs=1e-4)


def test_a_config_error_is_printed_once_and_ends_every_rank(
    config_file: Path, tmp_path: Path
) -> None:
    command = [*TORCHRUN, "train.py", "--config", str(config_file), "--output-dir", str(tmp_path)]
    output = launch(*command, "verifier.name=exact", "policy.backend=local", code=2)
    assert output.count("but 2 processes were launched") == 1
    assert "exitcode  : 2" in output
