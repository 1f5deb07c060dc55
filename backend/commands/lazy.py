"""The modules that load torch or transformers, each imported when a command first uses it.

That takes seconds, which ``--help``, a mistyped word and a refused file need not wait for.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend import data_pipeline, inferencer, trainer_main
    from backend.core import device, tokenizer
    from backend.core.encoding import preview, template_faults
    from backend.export import hub, job
    from backend.inference import batch, constraint, embedding, model_source, token_view
    from backend.inference.evals import general
    from backend.server import engine, process
    from backend.training import agreement, audit, branching, forgetting, inputs, pair_accuracy, teaching

__all__ = [
    "agreement",
    "audit",
    "batch",
    "branching",
    "constraint",
    "data_pipeline",
    "device",
    "embedding",
    "engine",
    "forgetting",
    "general",
    "hub",
    "inferencer",
    "inputs",
    "job",
    "model_source",
    "pair_accuracy",
    "preview",
    "process",
    "teaching",
    "template_faults",
    "token_view",
    "tokenizer",
    "trainer_main",
]

_PACKAGES = {
    "agreement": "backend.training",
    "audit": "backend.training",
    "batch": "backend.inference",
    "branching": "backend.training",
    "constraint": "backend.inference",
    "data_pipeline": "backend",
    "device": "backend.core",
    "embedding": "backend.inference",
    "engine": "backend.server",
    "forgetting": "backend.training",
    "general": "backend.inference.evals",
    "hub": "backend.export",
    "inferencer": "backend",
    "inputs": "backend.training",
    "job": "backend.export",
    "model_source": "backend.inference",
    "preview": "backend.core.encoding",
    "process": "backend.server",
    "pair_accuracy": "backend.training",
    "teaching": "backend.training",
    "template_faults": "backend.core.encoding",
    "token_view": "backend.inference",
    "tokenizer": "backend.core",
    "trainer_main": "backend",
}


if not TYPE_CHECKING:  # a type checker sees the imports above instead

    def __getattr__(name: str) -> ModuleType:
        """Import the module of that name (PEP 562)."""
        if name not in _PACKAGES:
            raise AttributeError(name)
        return import_module(f"{_PACKAGES[name]}.{name}")
