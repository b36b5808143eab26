"""A program: what vLLM's GPU wheel makes of engine arguments, on a machine without a GPU.

    python gpu_wheel.py FOLDER JSON

FOLDER has the wheel's Python files, first on the path; JSON has the engine arguments and the names
of the wheel's extension modules, which are empty here. Prints the configuration of the engine. Only
the platform is made up, an H100; Triton counts as working because no device is visible.
"""

import json
import os
import sys
from types import ModuleType

FOLDER, given = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, FOLDER)
sys.modules |= {name: ModuleType(name) for name in given["extensions"]}
os.environ.update(CUDA_VISIBLE_DEVICES="", VLLM_ENABLE_V1_MULTIPROCESSING="0")
os.environ.update(VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")

import vllm.platforms as platforms  # pyright: ignore # noqa: E402
from vllm.platforms.cuda import NonNvmlCudaPlatform  # pyright: ignore # noqa: E402
from vllm.platforms.interface import DeviceCapability  # pyright: ignore # noqa: E402


class H100(NonNvmlCudaPlatform):
    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:  # pyright: ignore
        return DeviceCapability(9, 0)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "NVIDIA H100 80GB HBM3"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return 80 * 2**30

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return 132

    def is_cumem_allocator_available(self) -> bool:
        return True


platforms.current_platform = H100()

from vllm import EngineArgs  # pyright: ignore # noqa: E402
from vllm.usage.usage_lib import UsageContext  # pyright: ignore # noqa: E402

config = EngineArgs(**given["arguments"]).create_engine_config(UsageContext.LLM_CLASS)
found = {
    "runner_v2": config.use_v2_model_runner,
    "async": config.scheduler_config.async_scheduling,
    "batched_tokens": config.scheduler_config.max_num_batched_tokens,
    "executor": config.parallel_config.distributed_executor_backend,
    "tensor_parallel": config.parallel_config.tensor_parallel_size,
    "worker": config.parallel_config.worker_cls,
    "cumem": config.model_config.enable_cumem_allocator,
    "dtype": str(config.model_config.dtype),
    "head": str(config.model_config.head_dtype),
    "graphs": config.compilation_config.cudagraph_mode.name,
}
print(json.dumps(found))
