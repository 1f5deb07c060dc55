from backend.data.checks.labels import variants


def test_variants_point_to_the_most_common_spelling():
    labels = ["pos"] * 5 + ["Pos", "pos ", "neg", "neg", "NEG"]
    assert variants(labels) == {"Pos": "pos", "pos ": "pos", "NEG": "neg"}


def test_labels_of_punctuation_alone_stay_apart():
    assert variants(["+", "-", "+", "-"]) == {}
    assert variants([]) == {}
