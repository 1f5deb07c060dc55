import pytest

from backend.data.families import AROUND_NAMES, COLUMN_NAMES, FAMILIES, PART_NAMES, PARTS, Family


@pytest.mark.parametrize(
    "family",
    FAMILIES,
    ids=lambda family: f"{family.shape}:{','.join(names[0] for names in family.required.values())}",
)
def test_a_family_holds_every_part_its_shape_needs(family):
    parts = PARTS[family.shape]
    assert set(parts.required) <= family.required.keys()
    assert family.required.keys() | family.optional.keys() <= {*parts.required, *parts.optional}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_told_apart_and_in_lower_case(family):
    for names in (*family.required.values(), *family.optional.values()):
        assert len(names) == len(set(names))
        assert [name.lower() for name in names] == list(names)


def test_every_shape_has_a_family():
    assert {family.shape for family in FAMILIES} == PARTS.keys()


def test_more_telling_columns_come_first():
    order = [family.shape for family in FAMILIES]
    assert order.index("preference") < order.index("messages") < order.index("prompt/completion")
    assert order.index("prompt/completion") < order.index("text") < order.index("prompt")
    assert [family.alone for family in FAMILIES] == sorted(family.alone for family in FAMILIES)


@pytest.mark.parametrize("shape", ["alpaca", "prompt/completion", "unpaired preference"])
def test_what_may_stand_beside_a_question_may_stand_beside_every_question(shape):
    families = [family for family in FAMILIES if family.shape == shape]
    assert {frozenset(family.optional) for family in families} == {
        frozenset(PARTS[shape].optional) - {"reasoning"}
    }


def test_readings_give_each_part_another_column_likeliest_first():
    family = Family("x", {"prompt": ("question", "input"), "completion": ("answer",)}, {"input": ("input",)})
    assert list(family.readings({"input": "Input", "answer": "answer", "question": "Q"})) == [
        {"prompt": "Q", "completion": "answer", "input": "Input"},
        {"prompt": "Input", "completion": "answer"},
    ]
    assert list(family.readings({"question": "Q"})) == []
    assert list(Family("x", {"a": ("n",), "b": ("n",)}, {}).readings({"n": "n"})) == []


def test_names_that_mean_a_part_are_among_the_known_ones():
    assert PART_NAMES < COLUMN_NAMES
    assert AROUND_NAMES < COLUMN_NAMES
