import pytest

from backend.data.families import FAMILIES, PARTS


@pytest.mark.parametrize(
    "family", FAMILIES, ids=lambda family: f"{family.shape}:{','.join(family.required.values())}"
)
def test_a_family_holds_every_part_its_shape_needs(family):
    parts = PARTS[family.shape]
    needed = set(parts.required) - {"labels"}
    assert needed <= family.required.keys()
    assert family.required.keys() | family.optional.keys() <= {*parts.required, *parts.optional}


def test_no_two_families_have_the_same_columns():
    marks = [(family.shape, tuple(sorted(family.required.items()))) for family in FAMILIES]
    assert len(marks) == len(set(marks))


def test_every_shape_has_a_family():
    assert {family.shape for family in FAMILIES} == PARTS.keys()


def test_more_telling_columns_come_first():
    order = [family.shape for family in FAMILIES]
    assert order.index("preference") < order.index("messages") < order.index("prompt/completion")
    assert order.index("prompt/completion") < order.index("text") < order.index("prompt")
