"""What a run was trained on: backend/training/provenance.py; the trainer's own tests see it in a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from backend import data_pipeline
from backend.core.device import plan_compute
from backend.core.tokenizer import load_tokenizer
from backend.errors import RunError
from backend.run.config import DataConfig
from backend.run.environment import ComputePlan, Environment, Facts
from backend.training import provenance as module
from backend.training.provenance import (
    NAMED_ROWS,
    facts_of,
    layers_here,
    machine,
    machine_changes,
    plan_here,
    provenance,
    require_same_inputs,
)
from tests.runs import ROWS, write_rows

FACTS = Facts({"a.jsonl": "1" * 64, "b.jsonl": "2" * 64}, "3" * 64, chat_template="4" * 64)


def test_it_says_versions_plan_facts_and_rows(tiny_folder: Path, tmp_path: Path) -> None:
    wordy = {"prompt": "word " * 100, "completion": "x"}
    data = write_rows(tmp_path / "rows.jsonl", [*ROWS, *[wordy] * (NAMED_ROWS + 1)])
    config = DataConfig(train=str(data), validation=0, max_length=60, truncation="drop")
    dataset = data_pipeline.load(config, seed=1)
    rows = data_pipeline.encode(dataset.train, load_tokenizer(tiny_folder), config)
    plan = plan_compute("float32")

    known = provenance(machine(plan), FACTS, dataset, rows, 1.23456)

    assert known.plan == plan
    assert known.facts == FACTS
    assert known.versions["torch"] == version("torch")
    assert known.data.train_rows == len(ROWS)
    assert list(known.data.dropped_rows) == rows.dropped[:NAMED_ROWS]
    assert len(rows.dropped) == NAMED_ROWS + 1
    assert known.data.trained_questions == ()
    assert 0 < (known.data.trained_tokens or 0) < (known.data.tokens or 0)


@pytest.mark.parametrize("before", [None, FACTS])
def test_the_first_attempt_and_the_same_inputs_go_on(before: Facts | None) -> None:
    require_same_inputs(before, FACTS)
    assert FACTS.model == "3" * 64


def test_a_template_that_an_older_version_did_not_note_is_not_missed() -> None:
    require_same_inputs(replace(FACTS, chat_template="", rendered_at=""), FACTS)
    assert FACTS.chat_template


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "4" * 64}, "the model (333333333333 → 444444444444) changed"),
        (
            {"data": {"a.jsonl": "1" * 64, "b.jsonl": "5" * 64}},
            "b.jsonl (222222222222 → 555555555555) changed",
        ),
        ({"data": {"a.jsonl": "1" * 64}}, "b.jsonl (222222222222 → None) changed"),
        ({"adapter": "6" * 64}, "the adapter to train further ( → 666666666666) changed"),
        ({"chat_template": "5" * 64}, "the chat template (444444444444 → 555555555555) changed"),
        (
            {"data": {"a.jsonl": "6" * 64, "b.jsonl": "2" * 64}, "model": "4" * 64},
            "666666666666) and the model",
        ),
    ],
)
def test_others_are_refused_with_both_hashes(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError) as caught:
        require_same_inputs(FACTS, replace(FACTS, **change))
    assert caught.value.code == "inputs-changed"
    assert said in caught.value.message
    assert "Put the original back" in caught.value.remedy


class TestFacts:
    def test_the_template_is_one_of_them(self, tiny_folder: Path, tmp_path: Path) -> None:
        dataset = data_pipeline.load(DataConfig(train=str(write_rows(tmp_path / "rows.jsonl"))), seed=1)
        tokenizer = load_tokenizer(tiny_folder)
        own = facts_of(dataset, tiny_folder, tokenizer)
        tokenizer.chat_template += " "
        changed = facts_of(dataset, tiny_folder, tokenizer)
        assert own.chat_template != changed.chat_template
        assert replace(own, chat_template="") == replace(changed, chat_template="")
        assert own.rendered_at == ""

    def test_so_is_the_time_where_the_template_prints_it(self, tiny_folder: Path, tmp_path: Path) -> None:
        dataset = data_pipeline.load(DataConfig(train=str(write_rows(tmp_path / "rows.jsonl"))), seed=1)
        tokenizer = load_tokenizer(tiny_folder, now=datetime(2026, 1, 2, tzinfo=UTC))
        tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + str(tokenizer.chat_template)
        facts = facts_of(dataset, tiny_folder, tokenizer)
        assert facts.template_time == datetime(2026, 1, 2, tzinfo=UTC)


HERE = ComputePlan("cpu", "float32", lanes=2, threads=1, matmul_precision="medium")


class TestMachine:
    """A resume on another kind of machine is noticed, and goes on with the precision that the run began with."""

    @pytest.fixture(autouse=True)
    def _this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def plan(dtype: str, *, cores: int) -> ComputePlan:
            return replace(HERE, dtype={"auto": "float32"}.get(dtype, dtype), lanes=cores)

        monkeypatch.setattr(module, "plan_compute", plan)
        monkeypatch.setattr(module, "processor", lambda device: f"this {device}")

    def test_the_first_attempt_makes_a_plan(self) -> None:
        assert plan_here(Environment(), "auto", cores=4) == replace(HERE, lanes=4)
        assert machine_changes(Environment(), machine(HERE)) == ""

    def test_on_the_same_kind_the_plan_is_kept_whatever_the_cores(self) -> None:
        known = replace(machine(replace(HERE, dtype="bfloat16", lanes=3, threads=2)))
        assert plan_here(known, "auto", cores=8) == known.plan
        assert machine_changes(known, machine(plan_here(known, "auto", cores=8))) == ""

    @pytest.mark.parametrize(
        ("processor", "plan"),
        [
            ("another", HERE),
            ("this cpu", replace(HERE, device="cuda", matmul_precision="high")),
            ("this cpu", replace(HERE, matmul_precision="highest")),
            ("", replace(HERE, matmul_precision="highest")),
        ],
    )
    def test_on_another_kind_there_is_a_new_one_in_the_same_precision(
        self, processor: str, plan: ComputePlan
    ) -> None:
        known = replace(machine(HERE), processor=processor, plan=replace(plan, dtype="bfloat16"))
        fresh = plan_here(known, "float32", cores=8)
        assert fresh == replace(HERE, dtype="bfloat16", lanes=8)
        assert "the processor (" in machine_changes(known, machine(fresh))

    def test_another_version_keeps_the_plan_and_is_told(self) -> None:
        known = machine(HERE)
        known = replace(known, versions=known.versions | {"torch": "1.0", "of_before": "3"})
        assert plan_here(known, "auto", cores=8) == HERE
        said = machine_changes(known, machine(HERE))
        assert said == f"torch (1.0 → {version('torch')})"

    def test_what_an_older_version_did_not_note_is_no_change(self) -> None:
        known = Environment(plan=HERE)
        assert plan_here(known, "auto", cores=8) == HERE
        assert machine_changes(known, machine(HERE)) == ""


OURS = "tunesmith, avx2"


@pytest.mark.parametrize(
    ("known", "here", "taken", "said"),
    [
        (Environment(), OURS, "tunesmith", ""),
        (Environment(plan=HERE, layers=OURS), OURS, "auto", ""),
        (Environment(plan=HERE, layers="transformers"), "transformers", "transformers", ""),
        (Environment(plan=HERE), "transformers", "transformers", ""),
        (Environment(plan=HERE, layers=OURS), "tunesmith, plain torch", "auto", "layers"),
        (Environment(plan=HERE, layers=OURS), "transformers", "auto", "layers"),
    ],
)
def test_a_run_keeps_the_layers_it_began_with_or_says_so(
    known: Environment, here: str, taken: str, said: str
) -> None:
    assert layers_here(known, "tunesmith") == taken
    assert said in machine_changes(known, machine(HERE, layers=here))
    assert bool(machine_changes(known, machine(HERE, layers=here))) is bool(said)
