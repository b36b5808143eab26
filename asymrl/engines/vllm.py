"""Rollouts with vLLM, in this process, beside the policy that it samples for.

Each sample is one vLLM request: the prefix cache shares the prefill of a prompt's samples, and a
response is handed over the moment it ends. The engine starts asleep; the policy's weights wake it.
Knows vLLM 0.32; nothing of training. vLLM is imported when an engine is made, not before.

Tokens depend on the requests' seeds and, unless each sample has its own seed, on what is sampled
beside them: vLLM draws from this process's global generators, which `generate` seeds anew.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asymrl.engines.distributed import World
from asymrl.engines.rollout import fingerprint
from asymrl.engines.vllm_weights import hf_names, named_weight, repack_heads
from asymrl.errors import UserError, one_line
from asymrl.types import Request, Rollout, Sampling, derive_seed

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model in this process, where weights can reach it
    # on a CPU it warns of what is as it has to be: no Triton, no CUDA graphs
    "VLLM_LOGGING_LEVEL": "WARNING" if torch.cuda.is_available() else "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
CPU_CACHE_BYTES = 2**30  # VLLM_CPU_KVCACHE_SPACE (GiB) overrides it


class VLLMEngine:
    """One vLLM engine of this rank, or of its tensor-parallel group, whose ranks call every method
    in lockstep with equal requests.

    `path`: a model folder or a Hugging Face id, for the architecture alone. `max_rows`: samples at
    a time. A model that vLLM cannot open is a UserError.
    """

    exact_logprobs = False

    def __init__(
        self,
        path: str,
        decode: Callable[[Sequence[int]], str],
        *,
        world: World,
        dtype: torch.dtype,
        max_model_len: int,
        max_rows: int,
        per_sample_seeds: bool = False,
        gpu_memory_utilization: float = 0.7,
        enforce_eager: bool = False,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.decode = decode
        self.weight_dtype = dtype
        self.per_sample_seeds = per_sample_seeds
        self.sleeps = torch.cuda.is_available()  # vLLM's CPU worker has no sleep
        wanted = arguments(
            path,
            world=world,
            gpu=self.sleeps,
            dtype=dtype,
            max_model_len=max_model_len,
            max_rows=max_rows,
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=enforce_eager,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        self.llm = open_engine(wanted)
        self.ready = True
        self.torn = False  # a load broke off, and vLLM holds what came of it
        self.sleep()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """engine_logprobs are of the distribution sampled from: after top-p and top-k."""
        self._refuse_unless_ready()
        assert not self.llm.has_unfinished_requests(), "one call at a time"
        reseed(derive_seed(*(request.seed for request in requests)))
        self.llm.reset_prefix_cache()  # no history: a cached prefix rounds otherwise
        owners, same = {}, sampling_params(sampling, None)
        try:
            for request in requests:
                prompt = {"type": "token", "prompt_token_ids": list(request.problem.prompt_ids)}
                for i in range(request.samples):
                    params = same
                    if self.per_sample_seeds:
                        params = sampling_params(sampling, derive_seed(request.seed, i))
                    key = str(len(owners))
                    owners[key] = request, i
                    self.llm.add_request(key, prompt, params)
            while owners:
                for output in self.llm.step():
                    request, i = owners.pop(output.request_id)
                    yield self._rollout(request, i, output.outputs[0], sampling)
        finally:  # what the caller did not wait for
            self.llm.abort_request(list(owners))
            settle(self.llm)

    def _rollout(self, request: Request, i: int, output: Any, sampling: Sampling) -> Rollout:
        assert output.finish_reason in ("stop", "length"), output.finish_reason
        ids = tuple(output.token_ids)
        truncated = ids[-1] not in sampling.stop_ids
        logprobs = tuple(output.logprobs.logprobs)
        assert len(logprobs) == len(ids), "one log-prob a token"
        return Rollout(
            draw=request.draw,
            sample=i,
            token_ids=ids,
            text=self.decode(ids if truncated else ids[:-1]),
            truncated=truncated,
            engine_logprobs=logprobs,
            engine_entropy=None,
        )

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        """RuntimeError for a tensor that the model does not have, has twice, or did not get; the
        engine then refuses to generate until a load that succeeds."""
        self.ready = False
        if self.sleeps:
            free_cache()
            self.llm.wake_up(tags=["weights"])
        if self.torn:  # an empty reload lets vLLM drop what it buffered of the last one
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(())})
        self.torn = True
        (names,) = self.llm.apply_model(hf_names)
        missing = set(names)
        weights = streamed(named, missing, self.weight_dtype)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if missing:
            raise RuntimeError(f"weights that the policy did not send: {sorted(missing)}")
        self.torn = False
        self.llm.apply_model(repack_heads)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("weights came while responses were being generated")
        if self.sleeps:
            free_cache()
            self.llm.wake_up(tags=["kv_cache"])
        self.ready = True

    @torch.no_grad()
    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        """RuntimeError names a tensor of which copies differ, or that cannot be read back."""
        self._refuse_unless_ready()
        (found,) = self.llm.apply_model(
            lambda model: {name: fingerprint(named_weight(model, name)) for name in names}
        )
        return found

    def sleep(self) -> None:
        if self.sleeps and self.ready:
            self.llm.sleep(level=2)  # weights too: the policy has them
            free_cache()
        self.ready = False

    def _refuse_unless_ready(self) -> None:
        if not self.ready:
            raise RuntimeError("vLLM has no weights: it sleeps, or a sync did not finish")


def arguments(
    path: str,
    *,
    world: World,
    gpu: bool,
    dtype: torch.dtype,
    max_rows: int,
    gpu_memory_utilization: float,
    enforce_eager: bool,
    **same: Any,
) -> dict[str, Any]:
    """vLLM's EngineArgs for this rank; `same` has vLLM's own names."""
    shared = {
        "model": path,
        "dtype": str(dtype).removeprefix("torch."),
        "tensor_parallel_size": world.tensor_parallel,
        # this process is one of several that a launcher started: vLLM starts none
        "distributed_executor_backend": "external_launcher" if world.size > 1 else "uni",
        "load_format": "dummy",  # the first sync brings the weights
        "max_num_seqs": max_rows,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # not the model's own sampling defaults
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "skip_tokenizer_init": True,
        "seed": 0,  # `generate` seeds; equal on the ranks of one engine
        "async_scheduling": gpu,  # the next batch is made while one runs; vLLM's CPU build has none
        **same,
    }
    if not gpu:
        return shared | {"enforce_eager": True, "kv_cache_memory_bytes": CPU_CACHE_BYTES}
    return shared | {
        "enforce_eager": enforce_eager,
        "gpu_memory_utilization": gpu_memory_utilization,
        "enable_sleep_mode": True,
    }


def open_engine(wanted: dict[str, Any]) -> Any:
    """vLLM's LLMEngine; what it does not open is a UserError."""
    for name, setting in ENVIRONMENT.items():
        os.environ.setdefault(name, setting)
    with undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names in torch.distributed
        from vllm import EngineArgs, LLMEngine  # pyright: ignore
        from vllm.usage.usage_lib import UsageContext  # pyright: ignore

        context = UsageContext.LLM_CLASS  # the batch sizes of offline generation
        try:
            config = EngineArgs(**wanted).create_engine_config(context)
            if not torch.cuda.is_available():
                check_head_size(config.model_config.get_head_size())
            llm = LLMEngine.from_vllm_config(config, context, disable_log_stats=True)
        except (ValueError, OSError, NotImplementedError) as error:
            cause = str(error).rpartition("Value error, ")[2]
            cause = one_line(cause.partition(" [type=")[0])  # pydantic's own addition
            raise UserError(f"model {wanted['model']} cannot be opened by vLLM: {cause}") from error
    # it calls the tied head and the rotary embedding, which have nothing to load, failures
    getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(ERROR)
    return llm


def settle(llm: Any) -> None:
    """Take what asynchronous scheduling has under way: one more batch, made before the ends of its
    requests were known. Else the next load or sleep would find it."""
    client = llm.engine_core
    while client.engine_core.batch_queue:
        client.get_output()


def check_head_size(size: int) -> None:
    """vLLM's GPU attention does so itself; on CPU only the first response would fail."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # pyright: ignore

    if not CPUAttentionBackend.supports_head_size(size):
        raise ValueError(f"its CPU attention takes no heads of size {size}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back what vLLM's CPU worker changes in its process: it makes torch.set_num_threads do
    nothing (for threads pinned to cores, which an engine in this process does not have), and tells
    child processes and DeepSpeed of another LOCAL_WORLD_SIZE and LD_PRELOAD."""
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    names = ("LD_PRELOAD", "LOCAL_WORLD_SIZE")
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        set_threads(threads)
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def sampling_params(sampling: Sampling, seed: int | None) -> Any:
    """vLLM's SamplingParams of one sample, every field that touches sampling explicit."""
    from vllm import SamplingParams  # pyright: ignore
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore

    return SamplingParams(
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=0.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        seed=seed,
        max_tokens=sampling.max_tokens,
        min_tokens=0,
        stop_token_ids=list(sampling.stop_ids),
        ignore_eos=True,  # stop_ids hold every stop token of the model
        detokenize=False,
        skip_special_tokens=False,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def reseed(seed: int) -> None:
    """vLLM's CPU sampler and first GPU model runner draw from torch's global generators; its second
    GPU runner draws each request's seed from numpy's."""
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def free_cache() -> None:
    """vLLM takes and gives back GPU memory past torch's allocator, so that must not sit on any."""
    gc.collect()
    torch.cuda.empty_cache()


def streamed(
    named: Iterator[tuple[str, Tensor]], missing: set[str], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The policy's tensors in the engine's dtype; takes their names out of `missing`."""
    for name, tensor in named:
        if name not in missing:
            raise RuntimeError(f"the policy sent {name}, which vLLM's model lacks or already got")
        missing.remove(name)
        # An alias of the data, not the parameter: vLLM keeps it until its layer is whole, and
        # ZeRO-3 may have emptied the parameter by then.
        yield name, tensor.detach().to(dtype)
