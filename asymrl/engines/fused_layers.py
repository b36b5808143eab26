"""Norms, rotary embeddings and SwiGLU as one kernel each, by the library Liger (arXiv 2410.10989).

Its kernels are Triton's, so they need a GPU. They replace a model's layers, not its head: log-probs
stay with algo/logprobs.py.
"""

from __future__ import annotations

from typing import Any

from asymrl.errors import UserError

OURS = ("cross_entropy", "fused_linear_cross_entropy")  # of the head, which is not replaced


def use_fused_layers(model: Any) -> None:
    """Replace the layers of a Hugging Face causal LM in place. The rotary embeddings of all models
    of its class change in this process. UserError if Liger does not know the class."""
    from liger_kernel.transformers import monkey_patch as liger  # pyright: ignore

    name = model.config.model_type
    if name not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(
            f"policy.liger_kernel=true: liger-kernel has no layers for {name} models; use false"
        )
    liger._apply_liger_kernel_to_instance(model=model, **dict.fromkeys(OURS, False))
