"""What every test has: no network, no GPU (but `make test-gpu`), one thread, shapes checked in
`asymrl.algo`. Imports no engine; fixtures that need a model import one when they are first used."""

import json
import os
import signal
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
if not os.environ.get("ASYMRL_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("asymrl.algo", "beartype.beartype")  # before anything imports it

from tests.helpers.first_letter import registered  # noqa: E402
from tests.helpers.paths import SHARED_DATA  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None, max_examples=50)  # a shared machine is slow
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The vLLM tests start first: the longest files must not be the last ones to start."""
    items.sort(key=lambda item: item.path.parent.name != "stack")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real problem files beside a checkout; a test that needs it skips without."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data files are not here: {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tokenizer():
    from asymrl.pocket.tokenizer import build_tokenizer

    return build_tokenizer(1024)


@pytest.fixture(scope="session", autouse=True)
def signals_have_default_handlers() -> None:
    """In the tests and in what they start, under nohup and in a shell's background too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def first_letter():
    """A verifier that a random policy satisfies now and then."""
    with registered():
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    """An ordinary Hugging Face folder with random weights."""
    from tests.helpers.models import tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(len(tokenizer), tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CONFIG = """
model: {{path: {model}}}
data: {{train: {data}}}
rollout: {{prompts: 6, group_size: 4, max_tokens: 6, sync_check_every: 2}}
verifier: {{name: first_letter}}
advantage: {{name: asym, beta_pos: 0.9, beta_neg: 0.4}}
optim: {{lr: 3.0e-3, minibatch_prompts: 3, betas: [0.9, 0.95]}}
policy: {{threads: 1}}
eval:
  every: 2
  benchmarks: [{data}]
  limit: 4
  sampling: {{greedy: {{temperature: 0.0}}, t1: {{temperature: 1.0, samples: 2}}}}
checkpoint: {{every: 1, keep: 99}}
tracking: {{rollouts_every: 2, logprob_gain_every: 1}}
steps: 5
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, model_folder) -> Path:
    folder = tmp_path_factory.mktemp("config")
    rows = ({"id": str(n), "problem": f"What is {n}?", "answer": str(n)} for n in range(9))
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = CONFIG.format(model=model_folder, data=folder / "problems.jsonl")
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def finished(config_file, tmp_path_factory) -> Path:
    """The folder of a whole run of five steps."""
    from tests.helpers.runs import run

    return run(config_file, tmp_path_factory.mktemp("runs") / "whole")
