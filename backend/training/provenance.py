"""The data, model and machine of a run, recorded by each attempt; data and model must stay the same."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from backend.core.device import plan_compute, processor
from backend.core.model_folder import model_fingerprint
from backend.core.model_resolver import hub_commit
from backend.core.templates.template import template_time
from backend.data.load import file_sha256
from backend.data_pipeline import Dataset, TrainRows
from backend.errors import RunError
from backend.run.environment import ComputePlan, Environment, Facts, RejectedRow, RowsRead
from backend.run.records import utc_now
from backend.training.earlier_adapter import adapter_fingerprint
from backend.training.forward import TRANSFORMERS

NAMED_ROWS = 1000


def facts_of(
    dataset: Dataset, folder: Path, tokenizer: PreTrainedTokenizerBase, adapter: Path | None = None
) -> Facts:
    """Return the fingerprints of data, base model (in ``folder``), chat template and earlier ``adapter`` of a run."""
    template = str(tokenizer.chat_template or "")
    return Facts(
        data=dataset.fingerprints,
        model=model_fingerprint(folder),
        revision=hub_commit(folder),
        chat_template=hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest(),
        rendered_at=template_time(tokenizer).isoformat() if "strftime_now" in template else "",
        adapter=adapter_fingerprint(adapter) if adapter is not None else "",
    )


def plan_here(known: Environment, dtype: str, *, cores: int) -> ComputePlan:
    """Return the compute plan: that of earlier attempts, or a new one if this is another kind of processor.

    The precision is kept in both cases; ``dtype`` is used in the first attempt. ``matmul_precision`` depends on the
    processor, so it is compared and never carried over to another one.
    """
    fresh = plan_compute(known.plan.dtype if known.plan else dtype, cores=max(1, cores))
    if known.plan is None or _other_processor(known, fresh):
        return fresh
    return known.plan


def _other_processor(known: Environment, fresh: ComputePlan) -> bool:
    if known.plan is None:
        return False
    then = known.plan.device_type, known.plan.matmul_precision
    here = processor(fresh.device)
    return then != (fresh.device_type, fresh.matmul_precision) or known.processor not in {"", here}


def layers_here(known: Environment, asked: str) -> str:
    """Return the ``layers_implementation`` of this attempt: that of earlier ones, and ``asked`` in the first.

    Where earlier attempts ran Tunesmith's own layers they are taken again if they are still proved, and a difference
    is noted like one of the machine. Versions that recorded nothing had those of transformers.
    """
    if known.plan is None:
        return asked
    return "transformers" if (known.layers or TRANSFORMERS) == TRANSFORMERS else "auto"


def machine(
    plan: ComputePlan, *, layers: str = "", quantized: bool = False, reward_funcs: Sequence[str] = ()
) -> Environment:
    """Return the environment of this attempt: versions, processor, plan, and whose ``layers`` run.

    ``quantized``: with bitsandbytes. The version of the file of a reward function is its SHA-256: it may be mended
    between two attempts, which is then noted.
    """
    packages = ["torch", "transformers", "peft", "safetensors", "tokenizers", "numpy"]
    packages += ["bitsandbytes"] if quantized else []
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor(plan.device),
        versions={name: version(name) for name in packages}
        | {Path(file).name: file_sha256(file)[:12] for file in _files(reward_funcs)},
        plan=plan,
        layers=layers,
    )


def _files(reward_funcs: Sequence[str]) -> list[str]:
    return sorted({name.rpartition(":")[0] for name in reward_funcs})


def machine_changes(known: Environment, here: Environment) -> str:
    """Return the differences to the last attempt that may change the bits of a result, in words; "" if none."""
    found = []
    if here.plan is not None and _other_processor(known, here.plan):
        found.append(f"the processor ({known.processor or 'another one'} → {here.processor})")
    layers = known.layers or TRANSFORMERS
    if known.plan is not None and layers != (here.layers or TRANSFORMERS):
        found.append(f"whose layers are computed ({layers} → {here.layers})")
    found += [
        f"{name} ({before} → {here.versions[name]})"
        for name, before in known.versions.items()
        if here.versions.get(name, before) != before
    ]
    return ", ".join(found)


def provenance(
    here: Environment, facts: Facts, dataset: Dataset, rows: TrainRows, start_seconds: float
) -> Environment:
    """Return the record for ``environment.json``: ``here`` with the facts, and counts and names of rows.

    ``start_seconds`` is the time from the trainer's imports to its first step. At most ``NAMED_ROWS`` rows of each
    kind are named.
    """
    return replace(
        here,
        facts=facts,
        start_seconds=round(start_seconds, 3),
        ready=utc_now(),
        data=_counted(
            RowsRead(
                read_as=dataset.reading,
                train_rows=rows.row_count,
                documents=rows.documents,
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


def with_tokens(known: Environment, rows: TrainRows) -> Environment:
    """Return ``known`` with the token counts of ``rows``, if all of them are tokenised by now."""
    return replace(known, data=_counted(known.data, rows))


def _counted(read: RowsRead, rows: TrainRows) -> RowsRead:
    return replace(read, tokens=rows.tokens, trained_tokens=rows.trained_tokens) if rows.is_complete else read


def require_same_inputs(before: Facts | None, now: Facts) -> None:
    """Raise RunError ``inputs-changed`` with both hashes if the facts differ from those of the first attempt."""
    if before is None:
        return
    changed = [
        f"{path} ({digest[:12]} → {str(now.data.get(path))[:12]})"
        for path, digest in before.data.items()
        if now.data.get(path) != digest
    ]
    if before.model != now.model:
        changed.append(f"the model ({before.model[:12]} → {now.model[:12]})")
    # runs of older versions have no template recorded
    if before.chat_template and before.chat_template != now.chat_template:
        changed.append(f"the chat template ({before.chat_template[:12]} → {now.chat_template[:12]})")
    if before.adapter != now.adapter:
        changed.append(f"the adapter to train further ({before.adapter[:12]} → {now.adapter[:12]})")
    if not changed:
        return
    raise RunError(
        f"Since this run began, {' and '.join(changed)} changed.",
        remedy="Put the original back to resume, or start a new run.",
        code="inputs-changed",
    )
