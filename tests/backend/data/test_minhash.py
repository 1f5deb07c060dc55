import numpy as np
import pytest

from backend.data.minhash import (
    MAX_PIECES,
    PERMUTATIONS,
    candidate_pairs,
    gram_hashes,
    near_duplicates,
    overlap,
    signatures,
    similarity,
)

WORDS = ["".join(letters) for letters in np.random.default_rng(0).choice(list("abcdefghij"), (500, 6))]


def text(seed, words=60):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def changed(given, place):
    words = given.split(" ")
    words[place] = "changed"
    return " ".join(words)


def jaccard(one, two):
    left, right = set(gram_hashes(one).tolist()), set(gram_hashes(two).tolist())
    return len(left & right) / len(left | right)


@pytest.mark.parametrize(
    ("given", "count"), [("", 1), ("abc", 1), ("abcdef", 2), (text(1), 56), (text(1, 19), 19 * 7 - 5)]
)
def test_gram_hashes_are_word_grams_of_long_texts_and_character_grams_of_short_ones(given, count):
    assert len(gram_hashes(given)) == count


def test_gram_hashes_of_a_very_long_text_are_bounded():
    assert len(gram_hashes("word " * 100_000)) <= MAX_PIECES


def test_gram_hashes_tell_neighbours_and_orders_apart():
    assert set(gram_hashes("abcde").tolist()).isdisjoint(gram_hashes("edcba").tolist())
    assert len(set(gram_hashes("ab ac ad ae af ag").tolist())) == len(gram_hashes("ab ac ad ae af ag"))


def test_signatures_are_the_same_again_and_depend_on_the_seed():
    given = [text(1), "short", text(2)]
    assert signatures(given).shape == (3, PERMUTATIONS)
    assert np.array_equal(signatures(given), signatures(given))
    assert not np.array_equal(signatures(given), signatures(given, seed=1))
    assert np.array_equal(signatures(given)[1], signatures(["short"])[0])


def test_similarity_estimates_the_jaccard_similarity():
    ones = [text(number) for number in range(50)]
    twos = [changed(each, 30) for each in ones]
    true = np.mean([jaccard(one, two) for one, two in zip(ones, twos, strict=True)])
    assert abs(similarity(signatures(ones), signatures(twos)).mean() - true) < 0.03


def test_near_duplicates_finds_what_was_changed_a_little_and_nothing_else():
    given = [text(number) for number in range(300)]
    near = [changed(given[number], 0) for number in range(0, 300, 10)]
    assert near_duplicates([*given, *near]) == {300 + place: 10 * place for place in range(30)}


def test_near_duplicates_points_at_the_first_of_a_chain():
    assert near_duplicates(["same text here", "same text here", "same text here", "another thing"]) == {
        1: 0,
        2: 0,
    }


def test_empty_texts_are_no_duplicates():
    assert near_duplicates(["", "", "a b c"]) == {}
    assert near_duplicates([]) == {}


def test_candidate_pairs_are_ordered_and_unique():
    table = signatures(["a b c d", "x y z", "a b c d", "a b c d"])
    assert candidate_pairs(table).tolist() == [[0, 2], [0, 3], [2, 3]]


def test_overlap_finds_each_text_among_the_others():
    others = [text(number) for number in range(100)]
    mine = [text(1000), changed(others[7], 0), others[3], ""]
    assert overlap(mine, others) == {1: 7, 2: 3}
    assert overlap([], others) == {}
    assert overlap(mine, [""]) == {}
