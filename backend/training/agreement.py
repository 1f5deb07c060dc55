"""What several processes that train one run must have in common, compared before the first step and now and then.

Each reads the run's folder, its data and its model by itself, perhaps on another machine over another mount; what one
of them sees otherwise would be trained without a word.
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
"""Steps between two comparisons of the weights: rare enough to cost nothing, and they read the weights once."""


def require_alone(environ: Mapping[str, str]) -> None:
    """Pass an environment in which a run can be made: each of several processes would make one.

    Raises RunError ``bad-rank`` where RANK, WORLD_SIZE and their like name others, or make no sense.
    """
    world = World.of(environ)
    if world.size > 1:
        raise RunError(
            f"RANK and WORLD_SIZE say that this is process {world.rank} of {world.size}, and a run is made by one.",
            remedy="Unset these variables; Tunesmith and torchrun set them for the processes they start.",
            code="bad-rank",
        )


def require_asked(world: World, config: RunConfig) -> None:
    """Raise RunError ``other-process-count`` when the run is for another number of processes.

    With another number it could not end with the same bits.
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
    """Return the checkpoint that the first process goes on from, its ``newest``; None to begin anew.

    The others read that very one, whatever their own listing says. Raises RunError where one of them cannot.
    """
    step = world.broadcast(newest.step if newest else None)
    return newest if world.is_main or step is None else read_checkpoint(run.checkpoint(step))


def require_agreement(world: World, config: RunConfig, facts: Facts, state: TrainState) -> None:
    """Raise RunError ``processes-disagree`` unless all processes are about to take the same first step."""
    world.require_same(
        settings=config,
        base_model=facts.model,
        data=sorted(facts.data.values()),
        chat_template=facts.chat_template,
        step=state.step,
        weights_to_start_from=weights_checksum(state.parameters.values()),
    )


def compared(reports: Iterable[StepReport], state: TrainState, world: World) -> Iterator[StepReport]:
    """Hand ``reports`` through; every ``COMPARE_STEPS`` raise RunError where the processes' weights have parted."""
    for report in reports:
        if world.size > 1 and report.step % COMPARE_STEPS == 0:
            world.require_same(
                **{f"weights_after_step_{report.step}": weights_checksum(state.parameters.values())}
            )
        yield report
