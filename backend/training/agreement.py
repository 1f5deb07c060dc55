"""Check that all processes of a run have the same settings, data, model and weights.

Each process reads the run's folder, data and model by itself, perhaps on another machine and mount. If one of them
read something else, training would go on without an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from backend.errors import RunError
from backend.run.config import RunConfig
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.reports import StepReport
from backend.training.checkpoint import Checkpoint, read_checkpoint
from backend.training.distributed import World, weights_checksum
from backend.training.loop import TrainState

COMPARE_STEPS = 50
"""Steps between two comparisons of the weights; a comparison reads all weights once."""


def require_alone(environ: Mapping[str, str]) -> None:
    """Check that this is a single process, as creating a run requires: each of several would create one.

    Raises RunError ``bad-rank`` if RANK, WORLD_SIZE and the others say that there are several, or are contradictory.
    """
    world = World.of(environ)
    if world.size > 1:
        raise RunError(
            f"RANK and WORLD_SIZE say that this is process {world.rank} of {world.size}, and a run is made by one.",
            remedy="Unset these variables; Tunesmith and torchrun set them for the processes they start.",
            code="bad-rank",
        )


def require_process_count(world: World, config: RunConfig) -> None:
    """Raise RunError ``other-process-count`` if the run is configured for another number of processes.

    With another number the result would have other bits.
    """
    asked = config.training.nproc_per_node * config.training.nnodes
    if world.size != asked:
        raise RunError(
            f"This run is for {asked} process{'es' * (asked > 1)}, not {world.size}.",
            remedy="Resume the run, which starts as many. Where RANK and WORLD_SIZE in the environment mean other "
            "processes, unset them.",
            code="other-process-count",
        )


def agreed_checkpoint(run: RunDir, newest: Checkpoint | None, world: World) -> Checkpoint | None:
    """Return the checkpoint to resume from, in every process the one that is ``newest`` for rank 0; None for none.

    On a network mount the others may still list an older one. Raises RunError if one of them cannot read it.
    """
    step = world.broadcast(newest.step if newest else None)
    return newest if world.is_main or step is None else read_checkpoint(run.checkpoint(step))


def require_agreement(world: World, config: RunConfig, facts: Facts, state: TrainState) -> None:
    """Raise RunError ``processes-disagree`` unless settings, data, model, step and weights are the same in all."""
    world.require_same(
        settings=config,
        base_model=facts.model,
        data=sorted(facts.data.values()),
        chat_template=facts.chat_template,
        step=state.step,
        weights_to_start_from=weights_checksum(state.parameters.values()),
    )


def compared(reports: Iterable[StepReport], state: TrainState, world: World) -> Iterator[StepReport]:
    """Yield ``reports``; every ``COMPARE_STEPS`` steps, raise RunError if the processes' weights differ."""
    for report in reports:
        if world.size > 1 and report.step % COMPARE_STEPS == 0:
            world.require_same(
                **{f"weights_after_step_{report.step}": weights_checksum(state.parameters.values())}
            )
        yield report
