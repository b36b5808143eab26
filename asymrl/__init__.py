"""AsymRL: reinforcement learning with verifiable rewards, readable in an evening.

For notebooks and scripts: `train`, `evaluate`, `load_run`, `advantages` and `verify`, documented in
asymrl/api.py. Each is loaded when it is first used, so `import asymrl` loads no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asymrl.api import advantages, evaluate, load_run, train
    from asymrl.errors import UserError
    from asymrl.verifiers import verify

_MODULES = {
    "advantages": "asymrl.api",
    "evaluate": "asymrl.api",
    "load_run": "asymrl.api",
    "train": "asymrl.api",
    "UserError": "asymrl.errors",
    "verify": "asymrl.verifiers",
}
__version__ = "0.1.0"
__all__ = ["UserError", "advantages", "evaluate", "load_run", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'asymrl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
