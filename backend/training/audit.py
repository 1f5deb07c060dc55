"""The reward audit: what the model that a run starts from earns, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import torch

from backend import data_pipeline
from backend.core.device import apply_plan, plan_compute, restored_globals, torch_dtype
from backend.core.encoding.prompts import Prompt, Prompts
from backend.core.model_loader import load_base
from backend.core.model_resolver import resolve_model
from backend.core.quantized import Quantization
from backend.core.tokenizer import load_tokenizer
from backend.errors import DataError
from backend.inference.decoding import context_length
from backend.run.config import RunConfig
from backend.run.reward_audit import RewardAudit, RewardBin
from backend.run.schedule import total_steps
from backend.training.advantages import flat, mean, std
from backend.training.earlier_adapter import earlier_adapter
from backend.training.forward import ForwardPass
from backend.training.rewards import Rewards
from backend.training.rollouts import Rollouts
from backend.training.tuning import make_trainable

PANEL = 16
"""Prompts of an audit, evenly spread over the rows."""
BINS = 5


def audit(rollouts: Rollouts, prompts: Sequence[Prompt], config: RunConfig) -> RewardAudit:
    """Return what sampled answers to a panel of ``prompts`` earn; nothing is changed."""
    count = min(PANEL, len(prompts))
    panel = [prompts[place * len(prompts) // count] for place in range(count)]
    started = time.perf_counter()
    answered = rollouts.answered(0, panel)
    seconds = time.perf_counter() - started
    kept, rewards = rollouts.compared(answered)
    known = [(each.reward, each) for each in kept if each.reward is not None]
    asked = total_steps(len(prompts), config.training) * min(config.training.rows_per_step, len(prompts))
    return RewardAudit(
        prompts=len(panel),
        generations=config.objective.num_generations,
        reward=mean(rewards) if known else 0.0,
        reward_std=float(std(rewards).item()),
        flat_share=float(flat(rewards).mean()),
        clipped_ratio=float(np.mean([each.is_truncated for each in kept])),
        distribution=_distribution([reward for reward, _ in known]),
        best=max(known, key=itemgetter(0))[1] if known else None,
        worst=min(known, key=itemgetter(0))[1] if known else None,
        seconds=round(seconds, 3),
        estimated_seconds=round(seconds / len(panel) * asked, 1),
    )


def _distribution(rewards: Sequence[float]) -> tuple[RewardBin, ...]:
    """Return how often rewards fall into each of a few equal parts between the lowest and the highest."""
    if not rewards:
        return ()
    parts = BINS if min(rewards) < max(rewards) else 1
    edges = np.linspace(min(rewards), max(rewards), parts + 1)
    places = np.searchsorted(edges[1:-1], rewards, side="right")
    counts = np.bincount(places, minlength=parts).tolist()
    return tuple(
        RewardBin(float(low), float(high), count)
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def require_hope(found: RewardAudit) -> None:
    """Raise DataError ``flat-rewards`` if the answers to nearly every prompt earn the same."""
    if not found.is_hopeless:
        return
    if found.best is None:
        raise DataError(
            f"{found.summary} No reward says anything about these answers.",
            remedy="Give the rows the answers that objective.rewards compare with, or name other rewards.",
            code="flat-rewards",
        )
    lowest, highest = ((each.reward or 0.0) if each else 0.0 for each in (found.worst, found.best))
    well = found.reward > 0 and 2 * found.reward >= lowest + highest
    what = (
        "The task is too easy, or the rewards do not tell answers apart" if well else "The task is too hard"
    )
    shown = f"The best of them is {found.best.completion[:200]!r}."
    raise DataError(
        f"{found.summary} {what} for this model as it is. {shown}",
        remedy="Train it on right answers first (objective.method sft), then this adapter further with "
        "tuning.adapter_name_or_path; reward parts of an answer too; or raise objective.num_generations or "
        "objective.temperature.",
        code="flat-rewards",
    )


def audit_of(config: RunConfig) -> RewardAudit:
    """Load the model that a run of ``config`` starts from, and return its audit; nothing is written.

    Raises DataError and ModelError as loading data and model does, and RewardError.
    """
    folder = resolve_model(config.model.model_name_or_path, revision=config.model.revision)
    tokenizer = load_tokenizer(folder, chat_template=config.model.chat_template)
    dataset = data_pipeline.load(config.data, seed=config.seed)
    prompts: Prompts = data_pipeline.prompts_of(dataset.train, config.data.train, tokenizer, config)
    with restored_globals(), Rewards.of(config.objective) as rewards:
        plan = plan_compute(config.model.dtype)
        apply_plan(plan)
        dtype = torch.float32 if config.tuning.trains_all else torch_dtype(plan)
        quantization = Quantization.of(config.model, dtype)
        base = load_base(folder, dtype=dtype, quantization=quantization, device=plan.device)
        prompts.require_fit(context_length(base), base.get_input_embeddings().weight.shape[0])
        adapter = earlier_adapter(config.tuning.adapter_name_or_path, folder)
        model = make_trainable(base, config.tuning, seed=config.seed, tokenizer=tokenizer, adapter=adapter)
        forward = ForwardPass(model, packed=False)
        rollouts = Rollouts(prompts, forward, tokenizer, rewards, config.objective, plan, seed=config.seed)
        return audit(rollouts, prompts, config)
