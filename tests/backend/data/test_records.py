from backend.data.records import EXCERPT_CHARACTERS, excerpt


def test_excerpt_keeps_short_texts_and_cuts_long_ones():
    assert excerpt("a" * EXCERPT_CHARACTERS) == "a" * EXCERPT_CHARACTERS
    cut = excerpt("a" * (EXCERPT_CHARACTERS + 1))
    assert len(cut) == EXCERPT_CHARACTERS
    assert cut.endswith("a…")


def test_excerpt_can_always_be_written():
    assert excerpt("é\udce9\ud800") == "é\\udce9\\ud800"
