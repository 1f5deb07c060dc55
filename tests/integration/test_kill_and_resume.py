"""Each way a trainer can end, in a process of its own, and a run that is killed anywhere goes on to the same bits."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.reports import RunStatus
from tests.eventually import eventually
from tests.runs import LONG, SHORT, lines, make_run, result_bytes, series, write_rows
from tests.trainers import End, Trainer, Trainers

STEPS = 10
TEN = SHORT | {"training.max_steps": STEPS, "training.save_steps": 3, "evaluation.eval_steps": 4}
METHODS: dict[str, dict[str, Any]] = {
    "lora": TEN,
    "lora with dropout": TEN | {"tuning.lora_dropout": 0.3},
    "full": TEN | {"tuning.method": "full", "training.learning_rate": 0.003},
    "accumulation": TEN | {"training.gradient_accumulation_steps": 3, "training.micro_batch_tokens": 32},
    "augmentation": TEN
    | {
        "training.neftune_noise_alpha": 5.0,
        "augmentation.prompt_templates": ["Say: {prompt}"],
        "augmentation.noise": 0.1,
        "augmentation.typos": 0.03,
        "augmentation.oversample": 2.0,
    },
}
MOMENTS = [(2, "before"), (4, "after"), (7, "before"), (10, "before")]
"""Killed before or after a step is written down: without any checkpoint yet, right after one, between, at the end."""
MOMENTS_OF = {
    "lora": MOMENTS,
    "lora with dropout": MOMENTS[2:3],
    "full": MOMENTS[2:],
    "accumulation": MOMENTS[:2],
    "augmentation": MOMENTS[1:3],
}
KILL = """
import os, signal
real = trainer.train_steps
def killing(*given, **options):
    for report in real(*given, **options):
        if (report.step, "before") == ({step}, "{when}"):
            os.kill(os.getpid(), signal.SIGKILL)
        yield report
        if (report.step, "after") == ({step}, "{when}"):
            os.kill(os.getpid(), signal.SIGKILL)
trainer.train_steps = killing
"""


@pytest.fixture(scope="module")
def undisturbed(
    trainers: Trainers, tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path
) -> dict[str, RunDir]:
    """A run of each method, carried out in one go."""
    root = tmp_path_factory.mktemp("undisturbed")
    runs = {method: make_run(root, learner, rows_file, changes) for method, changes in METHODS.items()}
    assert [trainers.start(run).wait().code for run in runs.values()] == [0] * len(METHODS)
    return runs


def same(run: RunDir, whole: RunDir) -> None:
    """Every weight, moment, curve and sample is the same."""
    assert run.status() is RunStatus.FINISHED
    assert result_bytes(run) == result_bytes(whole)
    assert series(run) == series(whole)
    assert lines(run.samples_file) == lines(whole.samples_file)
    assert [path.name for path in run.path.rglob("*.tmp")] == []


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_every_kind_of_moment_it_ends_in_the_same_bits(
    trainers: Trainers,
    undisturbed: dict[str, RunDir],
    tmp_path: Path,
    learner: Path,
    rows_file: Path,
    method: str,
) -> None:
    run = make_run(tmp_path / "runs", learner, rows_file, METHODS[method])
    for step, when in MOMENTS_OF[method]:
        end = trainers.start(run, code=KILL.format(step=step, when=when)).wait()
        assert end.code == -signal.SIGKILL
        assert run.status() is RunStatus.INTERRUPTED
        assert run.result_folder() is None
    assert trainers.start(run).wait().code == 0
    assert run.latest_attempt_number() == len(MOMENTS_OF[method]) + 1
    same(run, undisturbed[method])


def test_killed_from_outside_at_whatever_moment_it_ends_in_the_same_bits(
    trainers: Trainers, undisturbed: dict[str, RunDir], tmp_path: Path, learner: Path, rows_file: Path
) -> None:
    run = make_run(tmp_path / "runs", learner, rows_file, METHODS["lora"])
    for written in (1, 6):
        trainers.start(run).kill_after(written)
    assert trainers.start(run).wait().code == 0
    same(run, undisturbed["lora"])


def test_a_run_on_documents_with_other_rows_mixed_in_ends_in_the_same_bits(
    trainers: Trainers, tmp_path: Path, learner: Path, rows_file: Path
) -> None:
    book, held_out = tmp_path / "book.txt", tmp_path / "held-out.txt"
    book.write_text("The quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    held_out.write_text("The dog does not mind. " * 20, encoding="utf-8")
    changes = TEN | {
        "objective.method": "cpt",
        "data.validation": str(held_out),
        "data.whole_file": True,
        "data.max_length": 64,
        "data.mix": str(rows_file),
        "data.mix_share": 0.4,
    }
    whole, run = (make_run(tmp_path / name, learner, book, changes) for name in ("whole", "killed"))
    assert trainers.start(whole).wait().code == 0
    for step, when in [(3, "before"), (4, "after"), (9, "before")]:
        assert trainers.start(run, code=KILL.format(step=step, when=when)).wait().code == -signal.SIGKILL
    assert trainers.start(run).wait().code == 0
    same(run, whole)
    places = [place for line in lines(run.flight_file) for place in line["rows"]]
    assert {place.partition(":")[0] for place in places} == {"book.txt", "foods.jsonl"}
    assert {"book.txt:1 (piece 1)", "book.txt:1 (piece 2)"} <= {*places}
    evaluated = [line for line in series(run) if line["kind"] == "eval"]
    assert all(line["eval/bits_per_byte"] > 0 < line["eval/forgetting_loss"] for line in evaluated)
    outcome = run.read_outcome()
    assert outcome is not None
    assert "Loss on general texts: " in outcome.message


def test_the_comparison_can_tell_runs_apart(undisturbed: dict[str, RunDir]) -> None:
    assert len({str(series(run)) for run in undisturbed.values()}) == len(METHODS)
    assert len({str(result_bytes(run)) for run in undisturbed.values()}) == len(METHODS)


# --- the ways to end ---------------------------------------------------------------------------------------

SCENES: dict[str, tuple[int, str, RunStatus]] = {
    "finished": (0, "completed", RunStatus.FINISHED),
    "unforeseen": (1, "internal-error", RunStatus.FAILED),
    "no room": (1, "cannot-save", RunStatus.FAILED),
    "bad data": (2, "empty-file", RunStatus.FAILED),
    "stop file": (3, "stop-requested", RunStatus.STOPPED),
    "SIGINT": (130, "sigint", RunStatus.STOPPED),
    "SIGTERM": (143, "sigterm", RunStatus.STOPPED),
    "two signals": (143, "", RunStatus.INTERRUPTED),
}
ACTS: dict[str, Callable[[Trainer], object]] = {
    "stop file": lambda child: child.run.request_stop(),
    "SIGINT": lambda child: child.signal(signal.SIGINT),
    "SIGTERM": lambda child: child.signal(signal.SIGTERM),
    "two signals": lambda child: child.signal(signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT),
}
# a cut .pyc would break every other process
LIMIT = "import resource, sys; sys.dont_write_bytecode = True; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
CODE = {
    "unforeseen": "trainer.train_steps = None",
    "no room": LIMIT.format(20_000),
}
QUIET = SHORT | {"training.max_steps": 1, "data.validation": 0}

Ended = dict[str, tuple[End, RunDir]]


class TestRealChildren:
    """Each way to end, in a process of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def ended(
        cls, trainers: Trainers, tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path
    ) -> Ended:
        folder = tmp_path_factory.mktemp("children")
        data = {"bad data": write_rows(folder / "empty.jsonl", [])}
        ends: Ended = {}
        for name in SCENES:
            made = make_run(
                folder / "runs", learner, data.get(name, rows_file), LONG if name in ACTS else QUIET
            )
            child = trainers.start(made, code=CODE.get(name, ""))
            if name in ACTS:
                eventually(lambda child=child: child.has_written(1), timeout_seconds=60)
                ACTS[name](child)
            ends[name] = child.wait(), made
        return ends

    @pytest.mark.parametrize("scene", SCENES)
    def test_exit_code_outcome_and_status(self, ended: Ended, scene: str) -> None:
        end, made = ended[scene]
        outcome = made.read_outcome()
        assert (end.code, outcome.code if outcome else "", made.status()) == SCENES[scene], end.err

    @pytest.mark.parametrize("scene", [name for name in SCENES if name != "two signals"])
    def test_one_plain_sentence_on_the_screen(self, ended: Ended, scene: str) -> None:
        end, made = ended[scene]
        outcome = made.read_outcome()
        assert outcome is not None
        assert end.err.strip() == f"{outcome.message} {outcome.remedy}".strip()
        assert end.out == ""

    @pytest.mark.parametrize("scene", ["unforeseen", "no room", "bad data"])
    def test_the_traceback_in_the_log(self, ended: Ended, scene: str) -> None:
        made = ended[scene][1]
        assert "Traceback (most recent call last)" in made.train_log.read_text()
        assert made.result_folder() is None

    @pytest.mark.parametrize("scene", ["stop file", "SIGINT", "SIGTERM"])
    def test_whoever_is_asked_to_stop_saves_first(self, ended: Ended, scene: str) -> None:
        made = ended[scene][1]
        outcome = made.read_outcome()
        assert outcome is not None
        assert made.newest_checkpoint_step() == outcome.step > 0
        assert series(made)[-1]["step"] == outcome.step

    def test_the_second_signal_leaves_at_once(self, ended: Ended) -> None:
        end, made = ended["two signals"]
        assert end.err == ""
        assert not made.outcome_file.exists()
        assert not made.checkpoints.exists()

    def test_a_folder_that_lets_nothing_be_written(
        self, trainers: Trainers, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        made = make_run(tmp_path, learner, rows_file, QUIET)
        end = trainers.start(made, code=LIMIT.format(100)).wait()
        assert end.code == 1
        assert "Traceback" not in end.err
        assert end.err.count("\n") == 1
        assert "cannot be written" in end.err


def test_what_neither_of_two_can_use_ends_both_and_is_told(
    trainers: Trainers, tmp_path: Path, learner: Path
) -> None:
    run = make_run(tmp_path, learner, tmp_path / "gone.jsonl", SHORT | {"training.nproc_per_node": 2})
    meeting = Handover(meeting=tmp_path / "meeting").environ()
    together = {"WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo", **meeting}
    both = [trainers.start(run, RANK=rank, LOCAL_RANK=rank, **together) for rank in ("0", "1")]
    ends = [trainer.wait() for trainer in both]
    assert [end.code for end in ends] == [2, 2]
    assert ["gone.jsonl" in end.err for end in ends] == [True, True]
    state = run.state()
    assert (state.status, run.is_held()) == (RunStatus.FAILED, False)
    assert "gone.jsonl" in state.message
