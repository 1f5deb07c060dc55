from backend.data.checks.labels import variants


def test_variants_point_to_the_most_common_spelling():
    labels = ["pos"] * 5 + ["Pos", "pos ", "neg", "neg", "NEG"]
    assert variants(labels) == {"Pos": "pos", "pos ": "pos", "NEG": "neg"}


def test_spellings_of_one_label_are_one():
    for usual, other in (("spare part", "Spare_Part"), ("spare part", "spare-part."), ('"yes"', "yes")):
        assert variants([usual, usual, other]) == {other: usual}


def test_labels_that_differ_in_a_sign_stay_apart():
    assert variants(["1", "-1", "+1", ".1", "1%", "$1", "<1", "1!", "C", "C++", "C#", "m2", "m²"]) == {}
    assert variants(["5-3", "53", "5.3", "5/3"]) == {}


def test_labels_of_punctuation_alone_stay_apart():
    assert variants(["+", "-", "+", "-"]) == {}
    assert variants([]) == {}
