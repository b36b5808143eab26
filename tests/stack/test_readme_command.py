"""The command of the README for GPU nodes, with a tiny Qwen3 and local files in place of the hub's:
`accelerate launch train.py --config qwen3_4b_asym.yaml`, then `python eval.py --ckpt ... --avg-at
10`. Two CPU processes, vLLM and ZeRO-3, the settings of the paper except for sizes."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from asymrl.pocket.tokenizer import build_tokenizer
from asymrl.run import checkpoint
from tests.helpers.models import tiny_model
from tests.helpers.runs import metrics
from tests.stack.test_ranks import ACCELERATE, launch

pytestmark = [
    pytest.mark.skipif(
        find_spec("vllm") is None or find_spec("deepspeed") is None,
        reason="vLLM and DeepSpeed are not installed: `make stack` installs them without a GPU",
    ),
    pytest.mark.timeout(900),
]
BENCHMARKS = ("math500", "aime24", "aime25", "amc23", "olympiadbench")
SMALL = ["rollout.engine=vllm", "rollout.prompts=8", "optim.minibatch_prompts=4", "steps=2"]
SMALL += ["rollout.max_tokens=16", "verifier.workers=2"]


@pytest.fixture
def qwen3_folder(tmp_path: Path) -> Path:
    """A tiny Qwen3 whose tokenizer has both of Qwen3's stop tokens."""
    tokenizer, folder = build_tokenizer(1024), tmp_path / "qwen3"
    tokenizer.add_tokens("<|endoftext|>", special_tokens=True)
    stop_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert isinstance(stop_id, int)
    tiny_model(len(tokenizer), stop_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_readmes_command_trains_saves_and_evaluates(qwen3_folder: Path, tmp_path: Path) -> None:
    rows = [{"id": str(n), "problem": f"What is {n}?", "answer": str(n)} for n in range(9)]
    for name, count in {"train": 9, **dict.fromkeys(BENCHMARKS, 3)}.items():
        lines = (json.dumps(row) + "\n" for row in rows[:count])
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    files = ",".join(str(tmp_path / f"{name}.jsonl") for name in BENCHMARKS)
    local = [f"model.path={qwen3_folder}", f"data.train={tmp_path / 'train.jsonl'}"]
    local += [f"eval.benchmarks=[{files}]"]
    folder = tmp_path / "run"
    command = [*ACCELERATE, "train.py", "--config", "qwen3_4b_asym.yaml"]
    output = launch(*command, "--output-dir", str(folder), *local, *SMALL)
    assert "policy: deepspeed (2 processes share it)" in output and "step 2/2" in output
    rows_logged = metrics(folder)
    assert [row["step"] for row in rows_logged] == [0, 1, 2]
    assert rows_logged[2]["optim/updates"] == 4
    assert rows_logged[0]["eval/aime24/greedy/avg"] == 0  # random weights
    saved = folder / "checkpoints" / "latest"
    assert (saved / checkpoint.state_file(1, 2)).is_file()

    evaluate = [sys.executable, "eval.py", "--ckpt", str(saved), "--avg-at", "10"]
    here = ["--data-dir", str(tmp_path), "--allow-count", "--max-tokens", "16"]
    launch(*evaluate, *here, "--output", str(tmp_path / "scores"))
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    scored = {name: row["samples"] for name, row in summary["benchmarks"].items()}
    assert scored == dict.fromkeys(BENCHMARKS, 10)
