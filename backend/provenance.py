"""What a run was trained on: written down by each attempt, and the same in all of them. Floor F3."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version

from backend.data_pipeline import Dataset, EncodedRows
from backend.errors import RunError
from backend.run_environment import ComputePlan, Environment, Facts, RejectedRow, RowsRead
from backend.run_records import utc_now

NAMED_ROWS = 1000


def provenance(
    plan: ComputePlan, facts: Facts, dataset: Dataset, rows: EncodedRows, start_seconds: float
) -> Environment:
    """What an attempt runs on, for ``environment.json``: versions, compute plan, facts, and what became of the rows.

    ``start_seconds`` is how long the trainer took from its imports to its first step, the same span however it was
    started. At most ``NAMED_ROWS`` rows of a kind are named.
    """
    packages = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        versions={name: version(name) for name in packages},
        plan=plan,
        facts=facts,
        start_seconds=round(start_seconds, 3),
        ready=utc_now(),
        data=_counted(
            RowsRead(
                read_as=dataset.reading,
                train_rows=len(rows),
                validation_rows=len(dataset.validation),
                trained_questions=tuple(dataset.trained_questions()[:NAMED_ROWS]),
                rejected_rows=tuple(
                    RejectedRow(item.place, item.reason) for item in dataset.rejected[:NAMED_ROWS]
                ),
                cut_rows=tuple(rows.cut[:NAMED_ROWS]),
                dropped_rows=tuple(rows.dropped[:NAMED_ROWS]),
            ),
            rows,
        ),
    )


def with_tokens(known: Environment, rows: EncodedRows) -> Environment:
    """What ``provenance`` said, with the tokens of ``rows``, which are counted when all are tokenised."""
    return replace(known, data=_counted(known.data, rows))


def _counted(read: RowsRead, rows: EncodedRows) -> RowsRead:
    return replace(read, tokens=rows.tokens, trained_tokens=rows.trained_tokens) if rows.whole else read


def require_same_inputs(before: Facts | None, now: Facts) -> None:
    """Raise RunError ``inputs-changed`` when the facts are not those of the run's first attempt, with both hashes."""
    if before is None or before == now:
        return
    changed = [
        f"{path} ({digest[:12]} → {str(now.data.get(path))[:12]})"
        for path, digest in before.data.items()
        if now.data.get(path) != digest
    ]
    changed += [f"the model ({before.model[:12]} → {now.model[:12]})"] * (before.model != now.model)
    raise RunError(
        f"Since this run began, {' and '.join(changed)} changed.",
        remedy="Put the original back to resume, or start a new run.",
        code="inputs-changed",
    )
