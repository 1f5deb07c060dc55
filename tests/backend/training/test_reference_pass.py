"""The objective of a run is prepared once: computed, kept, found again, and computed anew for other inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.core.encoding.dataset import encode
from backend.core.packed_attention import MicroBatch
from backend.data.records import Row
from backend.errors import Problem, TrainingError
from backend.run.config import RunConfig, config_yaml
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.reports import Progress
from backend.run.settings import parse_config
from backend.training import reference_pass
from backend.training.batching import pack
from backend.training.distributed import ALONE
from backend.training.evaluation import held_out_loss
from backend.training.forward import ForwardPass
from backend.training.loop import TrainState
from backend.training.loss import RowScores
from backend.training.reference import read_reference
from backend.training.reference_pass import ReferencePass, fingerprint
from tests.backend.core.rows import PLAN, lively_model, start
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer("chatml")
FACTS = Facts(data={"pairs.jsonl": "a"}, model="b")
ROWS = [
    Row(
        f"pairs.jsonl:{number}",
        ({"role": "user", "content": f"food {number}"},),
        chosen=({"role": "assistant", "content": "meat"},),
        rejected=({"role": "assistant", "content": f"who knows, {number}"},),
    )
    for number in range(1, 12)
]


def _config(method: str = "dpo", **changes: Any) -> RunConfig:
    raw = {"data": {"train": "pairs.jsonl"}, "objective": {"method": method}}
    return parse_config(raw | {"training": {"per_device_train_batch_size": 4}} | changes)


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "pairs", config_yaml(_config()))


@pytest.fixture
def state() -> TrainState:
    return start(lively_model())


def _pass(config: RunConfig, state: TrainState) -> ReferencePass:
    rows = encode(ROWS[:9], TOKENIZER, config.data, method=config.objective.method)
    held_out = list(encode(ROWS[9:], TOKENIZER, config.data, method=config.objective.method))
    return ReferencePass(config, state.forward, rows, held_out, PLAN, ALONE, state.fitting)


def _prepare(
    config: RunConfig, state: TrainState, folder: RunDir, *, prove: bool = True
) -> tuple[tuple[Any, Any], list[str]]:
    """(both objectives, phases that were told)."""
    told: list[Progress] = []
    found = _pass(config, state).objectives(folder, FACTS, told.append, prove=prove)
    return found, [progress.phase for progress in told]


def test_a_method_without_a_reference_has_one_objective_and_computes_and_writes_nothing(
    state: TrainState, folder: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_pass, "step_rows", lambda *_: pytest.fail("the rows were put in order"))
    (train, held_out), told = _prepare(_config("orpo"), state, folder)
    assert train is held_out
    assert (told, folder.reference_file.exists()) == ([], False)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_all_answers_are_scored_once_and_found_again(
    state: TrainState, folder: RunDir, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    (first, _), told = _prepare(_config(method), state, folder)
    assert told[-1] == "scoring answers before training, 18 of 18"
    written = folder.reference_file.read_bytes()

    monkeypatch.setattr(reference_pass, "logprobs_of", lambda *_, **__: pytest.fail("scored again"))
    (again, _), told = _prepare(_config(method), state, folder)
    assert told == []
    assert folder.reference_file.read_bytes() == written
    assert again._reference.logprobs == first._reference.logprobs
    assert len(first._reference.logprobs) == 18


@pytest.mark.parametrize(
    "other",
    [
        _config(seed=7),
        _config(data={"train": "pairs.jsonl", "max_length": 900}),
        _config(tuning={"lora_r": 8}),
        _config(model={"load_in_4bit": True}),
        _config("kto"),
        _config(training={"per_device_train_batch_size": 3}),
    ],
    ids=["seed", "data", "tuning", "bits of the base", "method", "rows per step"],
)
def test_it_is_computed_anew_for_other_settings(state: TrainState, folder: RunDir, other: RunConfig) -> None:
    _prepare(_config(), state, folder)
    _, told = _prepare(other, state, folder)
    assert told


def test_the_learning_rate_does_not_matter(state: TrainState, folder: RunDir) -> None:
    _prepare(_config(), state, folder)
    faster = {"per_device_train_batch_size": 4, "learning_rate": 0.01, "num_train_epochs": 5}
    assert _prepare(_config(training=faster), state, folder)[1] == []


@pytest.mark.parametrize(("method", "loss"), [("dpo", 0.6931471805599453), ("kto", 0.5)])
def test_held_out_rows_start_at_the_constant(
    state: TrainState, folder: RunDir, method: str, loss: float
) -> None:
    config = _config(method)
    (_, held_out), _ = _prepare(config, state, folder)
    rows = list(encode(ROWS[9:], TOKENIZER, config.data, method=method))
    budget = config.training.micro_batch_tokens
    found = held_out_loss(state.forward, rows, PLAN, budget=budget, objective=held_out)
    assert found.loss == loss
    assert found.measured["rewards/chosen"] == 0.0
    assert state.forward.model.training


def _shift(real: Callable[..., dict[Any, float]]) -> Callable[..., dict[Any, float]]:
    return lambda *given, **options: {key: value + 1e-9 for key, value in real(*given, **options).items()}


def test_a_reference_that_is_not_the_model_is_refused_before_the_first_step_only(
    state: TrainState, folder: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_pass, "logprobs_of", _shift(reference_pass.logprobs_of))
    with pytest.raises(TrainingError) as caught:
        _prepare(_config(), state, folder)
    assert caught.value.code == "reference-differs"
    _prepare(_config(), state, folder, prove=False)  # a resume has trained since


def test_what_the_model_says_against_the_pairs_is_told(
    state: TrainState, folder: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def doubts(*sides: Any) -> tuple[Problem, ...]:
        seen.append(tuple(map(len, sides)))
        return (Problem("swapped-columns", "They look swapped.", "Look."),)

    monkeypatch.setattr(reference_pass, "reference_doubts", doubts)
    told: list[Progress] = []
    _pass(_config(), state).objectives(folder, FACTS, told.append, prove=True)
    assert seen == [(9, 9, 9, 9)]
    assert [progress.note for progress in told if progress.note] == ["They look swapped. Look."]
    _pass(_config("kto"), state).objectives(folder, FACTS, told.append, prove=True)
    assert len(seen) == 1


def test_rows_held_out_by_nobody_need_no_pass(state: TrainState, folder: RunDir) -> None:
    config = _config()
    rows = encode(ROWS, TOKENIZER, config.data, method="dpo")
    alone = ReferencePass(config, state.forward, rows, [], PLAN, ALONE, {})
    train, held_out = alone.objectives(folder, FACTS, lambda _: None, prove=True)
    batches = pack([rows[0], rows[1]], budget=100, group=2)
    assert train.of_step(batches, lambda *_: 0.0)(state.forward, batches[0]).means["rewards/chosen"][0] == 0.0
    assert held_out.group == 2


def test_another_precision_is_another_reference() -> None:
    config = _config()
    prints = {
        reference_pass.fingerprint(config, FACTS, replace(PLAN, dtype=dtype))
        for dtype in ("float32", "bfloat16")
    }
    assert len(prints) == 2
    assert reference_pass.fingerprint(config, FACTS, replace(PLAN, lanes=7)) in prints


ROOM = 70


class _Narrow(ForwardPass):
    """A model whose memory holds ``room`` tokens of a micro-batch."""

    room = 10_000

    def row_scores(self, batch: MicroBatch) -> RowScores:
        if len(batch.input_ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().row_scores(batch)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_where_memory_runs_out_it_is_computed_in_the_size_that_fits_and_training_begins_in_it(
    method: str, folder: RunDir, state: TrainState, tmp_path: Path
) -> None:
    tokens = {"training": {"per_device_train_batch_size": 18, "micro_batch_tokens": 1024}}
    narrow = _Narrow(state.forward.model, packed=True)
    object.__setattr__(narrow, "room", ROOM)
    config, state.forward = _config(method, **tokens), narrow
    heard: list[str] = []
    _pass(config, state).objectives(folder, FACTS, lambda seen: heard.append(seen.note), prove=True)
    ((asked, budget),) = state.fitting.items()
    small = {"training": {"per_device_train_batch_size": 18, "micro_batch_tokens": budget}}
    other = RunDir.create(tmp_path / "small", "pairs", config_yaml(config))
    plain = start(lively_model())
    plain.forward = ForwardPass(plain.forward.model, packed=True)
    _pass(_config(method, **small), plain).objectives(other, FACTS, lambda _: None, prove=True)

    assert (asked, budget < 1024) == (1024, True)
    assert any("Memory ran out while answers were scored" in note for note in heard)
    inputs = [fingerprint(each, FACTS, PLAN) for each in (config, _config(method, **small))]
    kept, wanted = (
        read_reference(run.reference_file, mark) for run, mark in zip((folder, other), inputs, strict=True)
    )
    assert kept == wanted

    again = start(lively_model())
    again.forward = ForwardPass(again.forward.model, packed=True)
    _pass(config, again).objectives(folder, FACTS, lambda _: None, prove=True)
    assert again.fitting == state.fitting


def test_where_one_pair_does_not_fit_nothing_is_kept(folder: RunDir, state: TrainState) -> None:
    narrow = _Narrow(state.forward.model, packed=True)
    object.__setattr__(narrow, "room", 10)
    state.forward = narrow
    with pytest.raises(torch.OutOfMemoryError):
        _pass(_config(), state).objectives(folder, FACTS, lambda _: None, prove=True)
    assert not folder.reference_file.exists()
