"""Laws of stores, copies, augmentation and near duplicates over generated rows."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.data import store
from backend.data.augmentation import augment
from backend.data.cleaning import exact_duplicates, repair_row
from backend.data.exact_json import encode
from backend.data.fixes import FIXES, mend
from backend.data.load import load_rows
from backend.data.minhash import near_duplicates
from backend.data.records import Row
from backend.data.texts import answers
from backend.data.write import row_record
from backend.run.config import AugmentationConfig
from backend.utils.text_utils import normalise
from tests.backend.data.containers import scratch

ANSWER = {"role": "assistant", "content": "a"}


def _untrained(message):
    return {**message, "trained": False} if message["role"] == "assistant" else message


text = st.text(st.characters(codec="utf-8"), max_size=20)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": text},
    optional={"trained": st.just(False), "name": text},
)
messages = st.lists(message, min_size=1, max_size=4).map(tuple)
judged = messages.map(
    lambda told: (*(_untrained(each) for each in told), {"role": "user", "content": "q"}, ANSWER)
)
row = st.one_of(
    st.builds(Row, st.just("f:1"), messages=messages),
    st.builds(Row, st.just("f:1"), text=text),
    st.builds(Row, st.just("f:1"), messages=judged, label=st.booleans()),
    st.builds(
        Row,
        st.just("f:1"),
        segments=st.lists(st.tuples(text, st.booleans()), min_size=1, max_size=3).map(tuple),
    ),
)
rows = st.lists(row, min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_a_store_gives_back_what_was_put_in(given_rows):
    with mock.patch.object(store, "IN_MEMORY_BYTES", 0):
        assert list(store.spill_to_disk([*given_rows, *given_rows])) == [*given_rows, *given_rows]


@settings(max_examples=60, deadline=None)
@given(row)
def test_a_written_row_reads_back_as_it_was(given_row):
    with scratch() as folder:
        (Path(folder) / "r.jsonl").write_text(encode(row_record(given_row)), encoding="utf-8")
        (read,) = load_rows(Path(folder) / "r.jsonl").rows
    assert replace(read, place="f:1") == given_row


@settings(deadline=None)
@given(row, st.integers(0, 1000), st.integers(0, 10), st.integers(0, 1000))
def test_augmentation_repeats_itself_and_never_touches_an_answer(given_row, seed, epoch, index):
    how = AugmentationConfig(prompt_templates=["A: {prompt}"], noise=0.1, typos=0.03, drop_system=0.5)
    once = augment(given_row, how, seed=seed, epoch=epoch, index=index)
    assert once == augment(given_row, how, seed=seed, epoch=epoch, index=index)
    assert answers(once) == answers(given_row)
    assert augment(given_row, AugmentationConfig(), seed=seed, epoch=epoch, index=index) is given_row


TWO_SYSTEM_TURNS = Row(
    "f:1",
    messages=(
        {"role": "system", "content": "\x08"},
        {"role": "system", "content": "\x81"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "0"},
    ),
)
"""Sound and damaged; joined, both are taken for damaged."""


@settings(deadline=None)
@example([TWO_SYSTEM_TURNS])
@given(rows)
def test_after_all_fixes_there_is_nothing_left_to_fix(given_rows):
    once = mend(given_rows, FIXES)
    again = mend(once.rows, ["drop-duplicates", "drop-empty", "repair-text"])
    assert again.rows == once.rows


@settings(deadline=None)
@given(rows)
def test_duplicates_point_back_to_a_first_row_that_is_none(given_rows):
    found = exact_duplicates([*given_rows, *given_rows])
    assert len(found) >= len(given_rows)
    assert all(earlier < later and earlier not in found for later, earlier in found.items())


@settings(deadline=None)
@given(st.lists(text.map(normalise), max_size=12))
def test_equal_texts_are_always_near(texts):
    found = near_duplicates([*texts, *texts])
    first = {each: number for number, each in reversed(list(enumerate(texts)))}
    for number, each in enumerate(texts):
        assert (len(texts) + number in found) is bool(each)
        assert found.get(len(texts) + number, first[each]) <= first[each]


@settings(deadline=None)
@given(row)
def test_repairing_twice_is_repairing_once(given_row):
    once = repair_row(given_row)
    assert repair_row(once) == once
