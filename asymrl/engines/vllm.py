"""Rollouts with vLLM, in the same process as the policy whose responses it samples.

Each sample is one vLLM request: the prefix cache shares a prompt's prefill among its samples, and
a response is yielded as soon as it ends. The engine starts asleep, and the policy's weights wake
it. Knows vLLM 0.32; nothing of training. vLLM is imported when an engine is created, not before.

vLLM draws from this process's global random generators, which `generate` seeds. So tokens depend
on the requests' seeds and on the other requests in the batch; with per-sample seeds, on a sample's
own seed only.
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
from asymrl.engines.gpus import count_gpus
from asymrl.engines.rollout import StopRequested, fingerprint, make_rollout, never
from asymrl.engines.vllm_weights import hf_names, named_weight, repack_heads
from asymrl.errors import UserError, one_line
from asymrl.types import Request, Rollout, Sampling, derive_seed

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # keep the model in this process, to load its weights
    # on a CPU, vLLM warns that Triton and CUDA graphs are missing, which is normal there
    "VLLM_LOGGING_LEVEL": "WARNING" if torch.cuda.is_available() else "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
CPU_CACHE_BYTES = 2**30  # VLLM_CPU_KVCACHE_SPACE (GiB) overrides it


class VLLMEngine:
    """`llm` is the engine from `open_llm`, `decode` turns token ids into text.

    The ranks of a tensor-parallel group call every method in the same order with equal requests.
    per_sample_seeds: seed each sample by itself. None: on a GPU, where vLLM seeds every request
    anyway; on a CPU it is slower.
    """

    exact_logprobs = False

    def __init__(
        self,
        llm: Any,
        decode: Callable[[Sequence[int]], str],
        *,
        per_sample_seeds: bool | None = None,
    ) -> None:
        self.llm = llm
        self.decode = decode
        self.weight_dtype: torch.dtype = llm.model_config.dtype
        self.sleeps: bool = llm.model_config.enable_sleep_mode  # on GPUs only
        self.per_sample_seeds = self.sleeps if per_sample_seeds is None else per_sample_seeds
        self.ready = True
        self.load_failed = False  # if True, vLLM still buffers tensors of the failed load
        self.sleep()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_requested: StopRequested = never,
    ) -> Iterator[Rollout]:
        """engine_logprobs are those of the sampling distribution, after top-p and top-k."""
        self._require_weights()
        assert not self.llm.has_unfinished_requests(), "another call of generate is still running"
        seed_global_generators(derive_seed(*(request.seed for request in requests)))
        self.llm.reset_prefix_cache()  # a prefix cached by an earlier call would round differently
        owners, shared_params = {}, sampling_params(sampling, None)
        try:
            for request in requests:
                prompt = {"type": "token", "prompt_token_ids": list(request.problem.prompt_ids)}
                for i in range(request.samples):
                    params = shared_params
                    if self.per_sample_seeds:
                        params = sampling_params(sampling, derive_seed(request.seed, i))
                    request_id = str(len(owners))
                    owners[request_id] = request, i
                    self.llm.add_request(request_id, prompt, params)
            while owners and not stop_requested():
                for result in self.llm.step():
                    request, i = owners.pop(result.request_id)
                    output = result.outputs[0]
                    assert output.finish_reason in ("stop", "length"), output.finish_reason
                    logprobs = output.logprobs.logprobs
                    assert len(logprobs) == len(output.token_ids), "one log-prob a token"
                    yield make_rollout(
                        request, i, output.token_ids, sampling, self.decode, logprobs=logprobs
                    )
        finally:  # the caller may stop early
            self.llm.abort_request(list(owners))
            drain_batches(self.llm)

    def load_weights(self, named: Iterator[tuple[str, Tensor]]) -> None:
        """RuntimeError for a tensor that the model lacks, receives twice, or does not receive. The
        engine then cannot generate until a later load succeeds."""
        self.ready = False
        if self.sleeps:
            empty_cuda_cache()
            self.llm.wake_up(tags=["weights"])
        if self.load_failed:  # an empty reload makes vLLM drop the tensors that it buffered
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(())})
        self.load_failed = True
        (names,) = self.llm.apply_model(hf_names)
        missing = set(names)
        weights = checked_weights(named, missing, self.weight_dtype)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if missing:
            raise RuntimeError(f"the policy did not send these weights: {sorted(missing)}")
        self.load_failed = False
        self.llm.apply_model(repack_heads)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("weights were loaded while vLLM was generating responses")
        if self.sleeps:
            empty_cuda_cache()
            self.llm.wake_up(tags=["kv_cache"])
        self.ready = True

    @torch.no_grad()
    def fingerprint(self, names: Sequence[str]) -> dict[str, float]:
        """RuntimeError, with its name, for a tensor whose copies differ or that cannot be read."""
        self._require_weights()
        (fingerprints,) = self.llm.apply_model(
            lambda model: {name: fingerprint(named_weight(model, name)) for name in names}
        )
        return fingerprints

    def sleep(self) -> None:
        if self.sleeps and self.ready:
            self.llm.sleep(level=2)  # drops the weights too, because the policy has them
            empty_cuda_cache()
        self.ready = False

    def _require_weights(self) -> None:
        if not self.ready:
            raise RuntimeError(
                "vLLM has no weights: the engine is asleep, or the last weight sync failed"
            )


def engine_arguments(
    path: str, *, world: World, gpu: bool, dtype: torch.dtype, max_rows: int, **others: Any
) -> dict[str, Any]:
    """Keyword arguments of vLLM's EngineArgs for this rank; `others` replace the defaults here."""
    arguments = {
        "model": path,
        "dtype": str(dtype).removeprefix("torch."),
        "tensor_parallel_size": world.tensor_parallel,
        # the launcher has started all processes, so vLLM must start none
        "distributed_executor_backend": "external_launcher" if world.size > 1 else "uni",
        "load_format": "dummy",  # the first weight sync replaces them
        "max_num_seqs": max_rows,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # ignore the model's own sampling defaults
        "logprobs_mode": "processed_logprobs",  # of the sampling distribution
        "skip_tokenizer_init": True,
        "seed": 0,  # equal on the ranks of an engine; `generate` seeds again
        "async_scheduling": gpu,  # schedules a batch while one runs; the CPU build cannot
        "gpu_memory_utilization": 0.7,
        **others,
    }
    if gpu:
        # logits in fp32, as the policy has them; else the head of vLLM rounds them to the dtype
        head = {"hf_overrides": {"head_dtype": "float32"}} if dtype != torch.float32 else {}
        return arguments | {"enable_sleep_mode": True} | head
    del arguments["gpu_memory_utilization"]
    return arguments | {"enforce_eager": True, "kv_cache_memory_bytes": CPU_CACHE_BYTES}


def open_llm(path: str, **settings: Any) -> Any:
    """vLLM's LLMEngine for this rank or its tensor-parallel group, without weights.

    path: a model folder or a Hugging Face id, of which only the architecture is read. settings: as
    in engine_arguments; max_rows samples are generated at a time. UserError for a model that vLLM
    cannot open.
    """
    gpu = count_gpus() > 0
    arguments = engine_arguments(path, gpu=gpu, **settings)
    for name, setting in ENVIRONMENT.items():
        os.environ.setdefault(name, setting)
    with restored_process(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # renamed functions of torch.distributed
        from vllm import EngineArgs, LLMEngine  # pyright: ignore
        from vllm.usage.usage_lib import UsageContext  # pyright: ignore

        context = UsageContext.LLM_CLASS  # batch sizes for offline generation
        try:
            config = EngineArgs(**arguments).create_engine_config(context)
            if not gpu:
                check_head_size(config.model_config.get_head_size())
            llm = LLMEngine.from_vllm_config(config, context, disable_log_stats=True)
        except (ValueError, OSError, NotImplementedError) as error:
            cause = str(error).rpartition("Value error, ")[2]
            cause = one_line(cause.partition(" [type=")[0])  # cut what pydantic appends
            raise UserError(f"vLLM cannot open model {path}: {cause}") from error
    # It reports the tied head and the rotary embedding as failures; they have nothing to load.
    getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(ERROR)
    return llm


def drain_batches(llm: Any) -> None:
    """Wait for the batch that asynchronous scheduling started before it knew that the requests
    had ended, so that it does not run at the next load or sleep."""
    client = llm.engine_core
    while client.engine_core.batch_queue:
        client.get_output()


def check_head_size(size: int) -> None:
    """ValueError for a head size that vLLM's CPU attention lacks; it would fail at the first
    response. The GPU attention checks by itself."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # pyright: ignore

    if not CPUAttentionBackend.supports_head_size(size):
        raise ValueError(f"its CPU attention does not support heads of size {size}")


@contextmanager
def restored_process() -> Iterator[None]:
    """Undo what vLLM's CPU worker changes in its process: it makes torch.set_num_threads do
    nothing, and sets LOCAL_WORLD_SIZE and LD_PRELOAD, which child processes and DeepSpeed read."""
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    names = ("LD_PRELOAD", "LOCAL_WORLD_SIZE")
    original = {name: os.environ[name] for name in names if name in os.environ}
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        set_threads(threads)
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(original)


def sampling_params(sampling: Sampling, seed: int | None) -> Any:
    """vLLM's SamplingParams for one sample, with an explicit value for every field that affects
    sampling. seed: None samples from the global generators."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams  # pyright: ignore

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
        ignore_eos=True,  # stop_ids already hold every stop token of the model
        detokenize=False,
        skip_special_tokens=False,
        logprobs=0,  # only that of the sampled token
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def seed_global_generators(seed: int) -> None:
    """vLLM's CPU sampler and its first GPU model runner draw from torch's global generators; its
    second GPU model runner draws the seed of each request from numpy's."""
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def empty_cuda_cache() -> None:
    """Return torch's unused GPU memory, because vLLM allocates outside of torch's allocator."""
    gc.collect()
    torch.cuda.empty_cache()


def checked_weights(
    named: Iterator[tuple[str, Tensor]], missing: set[str], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The policy's tensors in the engine's dtype; removes their names from `missing`. RuntimeError
    for a name that is not (or no longer) there."""
    for name, tensor in named:
        if name not in missing:
            raise RuntimeError(
                f"the policy sent {name}, which vLLM's model does not have or already received"
            )
        missing.remove(name)
        # detached: vLLM keeps it until its layer is complete, when ZeRO-3 may have emptied it
        yield name, tensor.detach().to(dtype)
