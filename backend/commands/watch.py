"""``tunesmith runs watch``: a run as it trains, live in a terminal, as plain lines in a pipe, or as JSON."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from backend.commands.options import AsJson, OneRun, RunsFolder, find_run, shown
from backend.commands.output import print_json, say, visible
from backend.commands.plot import bar, curve_lines, sparkline
from backend.commands.run_phrases import next_action, state_record
from backend.manager.curves import time_left
from backend.manager.log_view import LogTail
from backend.manager.queue_manager import QueueManager
from backend.manager.queue_watch import move_on
from backend.manager.run_summary import summarise
from backend.manager.scalars import RunScalars, duration
from backend.run.folder import RunDir
from backend.run.lifecycle import NOT_RESPONDING
from backend.run.metrics import (
    BITS_PER_BYTE,
    EVAL_LOSS,
    FORGETTING_LOSS,
    LEARNING_RATE,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
    preference_words,
    reward_words,
)
from backend.run.outcomes import watched_exit_code
from backend.run.reports import RunState, RunStatus
from backend.utils.jsonl_utils import last_records

LOG_LINES = 5
CURVE_POINTS = 400
_COLOURS = {
    RunStatus.FINISHED: "green",
    RunStatus.FAILED: "red",
    RunStatus.INTERRUPTED: "yellow",
    RunStatus.STOPPED: "yellow",
}


@dataclass(frozen=True)
class Snapshot:
    """All that is shown of a run at one moment. ``eta_seconds`` is None unless it trains; losses are in nats.

    ``forgetting_loss`` is that on general texts. ``preference`` says of a preference method how often the better
    answer is preferred, ``held_out_preference`` on held-out rows; "" for other methods. ``reward`` and
    ``held_out_reward`` say what the answers of a rewarded run earn.

    ``loss_curve`` and ``eval_curve`` are (steps, values), thinned; ``system`` is the latest machine sample of a
    live run, ``log`` the last lines of its log.
    """

    run: str
    title: str
    state: RunState
    next_action: str
    step: int
    total_steps: int
    loss: float | None
    eval_loss: float | None
    tokens_per_second: float | None
    learning_rate: float | None
    eta_seconds: float | None
    loss_curve: tuple[list[int], list[float]]
    eval_curve: tuple[list[int], list[float]]
    reward: str = ""
    held_out_reward: str = ""
    preference: str = ""
    held_out_preference: str = ""
    bits_per_byte: float | None = None
    forgetting_loss: float | None = None
    system: dict[str, object] = field(default_factory=dict)
    log: tuple[str, ...] = ()

    @property
    def goes_on(self) -> bool:
        """Whether there is more to come: it lives, or waits for its turn."""
        return self.state.is_live or (self.state.status is RunStatus.QUEUED and self.state.reason != "held")

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        return self.step / self.total_steps if self.total_steps else 0.0


def watch(
    run: OneRun,
    *,
    once: Annotated[bool, Parameter(negative=(), help="Show it as it is now, and leave.")] = False,
    interval: Annotated[float, Parameter(help="Seconds between two looks.")] = 1.0,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Follow a run until it ends: curve, time left, machine and log. Ctrl-C leaves; the run goes on.

    The exit code says how it ended: 0 finished, 1 failed or interrupted, 3 stopped. --once and --json look once.

    Example
    -------
    tunesmith runs watch latest
    """
    found = find_run(runs, run)
    scalars = RunScalars(found)
    if as_json:
        print_json(snapshot_record(take_snapshot(found, scalars)))
        return 0
    try:
        return _follow(found, scalars, once=once, interval=max(0.05, interval))
    except KeyboardInterrupt:
        say(f"\nThe run goes on. Stop it with: tunesmith runs stop {shown(found)}")
        return 0


def _follow(run: RunDir, scalars: RunScalars, *, once: bool, interval: float) -> int:

    console = Console(highlight=False)
    snapshot = _look(run, scalars)
    if once or not snapshot.goes_on:
        _print_once(console, snapshot)
        return 0 if once else watched_exit_code(snapshot.state)
    follow = _follow_live if console.is_terminal else _follow_plainly
    return watched_exit_code(follow(console, run, scalars, interval).state)


def _print_once(console: Any, snapshot: Snapshot) -> None:
    if console.is_terminal:
        console.print(view(snapshot, console.width))
    else:
        say("\n".join(plain_lines(snapshot)))


def _follow_live(console: Any, run: RunDir, scalars: RunScalars, interval: float) -> Snapshot:

    snapshot = _look(run, scalars)
    with Live(view(snapshot, console.width), console=console, auto_refresh=False) as live:
        while snapshot.goes_on:
            time.sleep(interval)
            snapshot = _look(run, scalars)
            live.update(view(snapshot, console.width), refresh=True)
    return snapshot


def _follow_plainly(_: Any, run: RunDir, scalars: RunScalars, interval: float) -> Snapshot:
    """A line whenever the status changes, an evaluation comes in or another tenth is done."""
    snapshot = _look(run, scalars)
    said: tuple[object, ...] = ()
    while snapshot.goes_on:
        news = (snapshot.state.status, snapshot.eval_loss, int(10 * snapshot.share))
        if news != said:
            say(progress_line(snapshot))
            sys.stdout.flush()
            said = news
        time.sleep(interval)
        snapshot = _look(run, scalars)
    say("\n".join(plain_lines(snapshot)))
    return snapshot


def _look(run: RunDir, scalars: RunScalars) -> Snapshot:
    """The run as it is now; one that waits is started where it has its turn, since who watches looks at the queue."""
    snapshot = take_snapshot(run, scalars)
    if snapshot.state.status is not RunStatus.QUEUED:
        return snapshot
    with contextlib.suppress(OSError):  # a folder that cannot be written: it waits, and that is shown
        move_on(QueueManager(run.path.parent))
    return take_snapshot(run, scalars)


def take_snapshot(run: RunDir, scalars: RunScalars) -> Snapshot:
    """The run as it is now; ``scalars`` are its curves, brought up to date here, and the source of every figure."""
    state = run.state()
    scalars.poll()
    left = time_left(scalars)
    step, total_steps = (int(_latest(scalars, name) or 0) for name in ("step", "total_steps"))
    return Snapshot(
        run=run.id,
        title=summarise(run).title,
        state=state,
        next_action=next_action(run, state),
        step=step,
        total_steps=total_steps,
        loss=_latest(scalars, TRAIN_LOSS),
        eval_loss=_latest(scalars, EVAL_LOSS),
        reward=reward_words(scalars.latest, "train/"),
        held_out_reward=reward_words(scalars.latest, "eval/"),
        preference=preference_words(scalars.latest, "train/"),
        held_out_preference=preference_words(scalars.latest, "eval/"),
        bits_per_byte=_latest(scalars, BITS_PER_BYTE),
        forgetting_loss=_latest(scalars, FORGETTING_LOSS),
        tokens_per_second=_latest(scalars, TOKENS_PER_SECOND),
        learning_rate=_latest(scalars, LEARNING_RATE),
        eta_seconds=left.seconds if left and state.is_live and state.reason != NOT_RESPONDING else None,
        loss_curve=scalars.curve(TRAIN_LOSS, limit=CURVE_POINTS),
        eval_curve=scalars.curve(EVAL_LOSS, limit=CURVE_POINTS),
        system=next(last_records(run.system_file), {}) if state.is_live else {},
        log=_last_lines(run),
    )


def _last_lines(run: RunDir) -> tuple[str, ...]:

    return tuple([line for line in LogTail(run.train_log).poll().lines if line][-LOG_LINES:])


def _latest(scalars: RunScalars, tag: str) -> float | None:
    value = scalars.latest.get(tag)
    return float(value) if isinstance(value, int | float) else None


def snapshot_record(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as plain values, the state's own words on the top level."""
    record = asdict(snapshot)
    state = {**state_record(snapshot.run, record.pop("state")), "next_action": snapshot.next_action}
    curves = {
        name: dict(zip(("steps", "values"), record.pop(name), strict=True))
        for name in ("loss_curve", "eval_curve")
    }
    return {**record, **state, "live": snapshot.state.is_live, **curves}


def view(snapshot: Snapshot, width: int) -> RenderableType:
    """The snapshot as a panel for a terminal of ``width`` characters."""
    inner = max(40, min(width, 110) - 4)
    colour = _COLOURS.get(snapshot.state.status, "cyan")
    parts: list[RenderableType] = [Text(visible(headline(snapshot)), style=f"bold {colour}")]
    if snapshot.total_steps:
        filled = bar(snapshot.share, inner - 30)
        progress = Text(filled, style=colour)
        progress.append("─" * (inner - 30 - len(filled)), style="dim")
        progress.append(f" {progress_words(snapshot)}", style="default")
        parts += [progress, Text(figures(snapshot))]
    plot = curve_lines(*snapshot.loss_curve, width=inner, height=6, last_step=snapshot.total_steps)
    if len(snapshot.loss_curve[0]) > 1:
        parts += [Text(), Text("training loss", style="dim"), Text("\n".join(plot), style="cyan")]
    if machine(snapshot):
        parts += [Text(), Text(machine(snapshot))]
    if snapshot.log:
        parts += [Text(), *(Text(visible(line[:inner]), style="dim") for line in snapshot.log)]
    if not snapshot.goes_on:
        parts += [Text(), Text(visible(snapshot.next_action))]
    return Panel(Group(*parts), title=Text(visible(snapshot.title)), title_align="left", width=inner + 4)


def headline(snapshot: Snapshot) -> str:
    """Where the run stands, in words."""
    way_out = f" {snapshot.next_action}" if snapshot.state.reason == NOT_RESPONDING else ""
    return f"{str(snapshot.state.status).capitalize()} · {snapshot.state.message}{way_out}"


def progress_words(snapshot: Snapshot) -> str:
    """``120/200 · 1:23 min left``."""
    left = "" if snapshot.eta_seconds is None else f" · {duration(snapshot.eta_seconds)} left"
    return f"{snapshot.step:,}/{snapshot.total_steps:,}{left}"


def figures(snapshot: Snapshot) -> str:
    """Losses, speed and learning rate, as far as they are known."""
    known = [
        ("{}", snapshot.reward or None),
        ("held-out {}", snapshot.held_out_reward or None),
        ("loss {:.4f}", snapshot.loss),
        ("{}", snapshot.preference or None),
        ("held-out loss {:.4f}", snapshot.eval_loss),
        ("{}", snapshot.held_out_preference or None),
        ("{:.4f} bits per byte", snapshot.bits_per_byte),
        ("general texts {:.4f}", snapshot.forgetting_loss),
        ("{:,.0f} tokens/s", snapshot.tokens_per_second),
        ("learning rate {:.2g}", snapshot.learning_rate),
    ]
    return " · ".join(shape.format(value) for shape, value in known if value is not None)


def machine(snapshot: Snapshot) -> str:
    """Processor, memory, disk and GPUs in one line; empty when nothing was measured."""
    sample = snapshot.system
    cpu, used, total, free = (
        sample.get(name)
        for name in ("cpu_percent", "memory_used_bytes", "memory_total_bytes", "disk_free_bytes")
    )
    parts = []
    if isinstance(cpu, int | float):
        parts.append(f"processor {cpu:.0f} %")
    if isinstance(used, int) and isinstance(total, int):
        parts.append(f"memory {used / 2**30:.1f} of {total / 2**30:.1f} GiB")
    if isinstance(free, int):
        parts.append(f"{free / 2**30:,.0f} GiB disk free")
    gpus = sample.get("gpus")
    busy = (
        [f"GPU {gpu['index']} {gpu['busy_percent']:.0f} %" for gpu in gpus] if isinstance(gpus, list) else []
    )
    return " · ".join([*parts, *busy])


def progress_line(snapshot: Snapshot) -> str:
    """The snapshot in one line."""
    steps = [progress_words(snapshot), figures(snapshot)] if snapshot.total_steps else []
    return " · ".join([str(snapshot.state.status), *filter(None, steps)])


def plain_lines(snapshot: Snapshot) -> list[str]:
    """The snapshot for a pipe: no colours, no frame."""
    lines = [snapshot.title, headline(snapshot)]
    if snapshot.total_steps:
        lines += [f"step {progress_words(snapshot)}", figures(snapshot)]
    if len(snapshot.loss_curve[0]) > 1:
        lines.append(f"training loss {sparkline(snapshot.loss_curve[1][-60:])}")
    lines += [machine(snapshot), *(f"  {line}" for line in snapshot.log), snapshot.next_action]
    return [line for line in lines if line]
