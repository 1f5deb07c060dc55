"""What a run was trained on: written down by each attempt, and the same in all of them. Floor F3."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from backend.core.device import ComputePlan
from backend.data_pipeline import Dataset, EncodedRows
from backend.errors import RunError
from backend.run_records import utc_now

NAMED_ROWS = 1000


def provenance(
    plan: ComputePlan, facts: Mapping[str, Any], dataset: Dataset, rows: EncodedRows, start_seconds: float
) -> dict[str, object]:
    """What an attempt runs on, for ``environment.json``: versions, compute plan, facts, and what became of the rows.

    ``facts`` are the fingerprints of data and model; ``start_seconds`` is how long the trainer took from its imports
    to its first step, the same span however it was started. At most ``NAMED_ROWS`` rows of a kind are named.
    """
    packages = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in packages},
        "plan": plan.to_dict(),
        "facts": dict(facts),
        "start_seconds": round(start_seconds, 3),
        "ready": utc_now(),
        "data": {
            "read_as": dataset.reading,
            "train_rows": len(rows),
            "validation_rows": len(dataset.validation),
            "trained_questions": dataset.trained_questions()[:NAMED_ROWS],
            "rejected_rows": [
                {"place": item.place, "reason": item.reason} for item in dataset.rejected[:NAMED_ROWS]
            ],
            "cut_rows": rows.cut[:NAMED_ROWS],
            "dropped_rows": rows.dropped[:NAMED_ROWS],
            **_tokens(rows),
        },
    }


def with_tokens(known: Mapping[str, Any], rows: EncodedRows) -> dict[str, object]:
    """What ``provenance`` said, with the tokens of ``rows``, which are counted when all are tokenised."""
    return {**known, "data": {**known["data"], **_tokens(rows)}}


def _tokens(rows: EncodedRows) -> dict[str, int]:
    return {"tokens": rows.tokens, "trained_tokens": rows.trained_tokens} if rows.whole else {}


def require_same_inputs(before: object, now: Mapping[str, Any]) -> None:
    """Raise RunError ``inputs-changed`` when the facts are not those of the run's first attempt, with both hashes."""
    if not isinstance(before, dict) or before == now:
        return
    changed = [
        f"{path} ({str(digest)[:12]} → {str(now['data'].get(path))[:12]})"
        for path, digest in before.get("data", {}).items()
        if now["data"].get(path) != digest
    ]
    changed += [f"the model ({str(before.get('model'))[:12]} → {now['model'][:12]})"] * (
        before.get("model") != now["model"]
    )
    raise RunError(
        f"Since this run began, {' and '.join(changed)} changed.",
        remedy="Put the original back to resume, or start a new run.",
        code="inputs-changed",
    )
