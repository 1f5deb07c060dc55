import pytest

from backend.data.checks.references import reference_doubts

PAIRS = 40


def doubts(chosen, rejected, chosen_tokens=20, rejected_tokens=20, pairs=PAIRS):
    lengths = [chosen_tokens] * pairs, [rejected_tokens] * pairs
    return [each.field for each in reference_doubts([chosen] * pairs, [rejected] * pairs, *lengths)]


@pytest.mark.parametrize(
    ("chosen", "rejected", "lengths", "found"),
    [
        (-40.0, -50.0, (20, 20), []),
        (-50.0, -40.0, (20, 20), ["swapped-columns"]),
        (-50.0, -40.0, (40, 20), []),  # less likely as a whole, but longer, and likelier per token
        (-40.0, -50.0, (10, 20), []),  # likelier as a whole
        (-90.0, -95.0, (20, 20), ["foreign-answers"]),
        (-95.0, -90.0, (20, 20), ["swapped-columns", "foreign-answers"]),
    ],
)
def test_what_the_model_says_before_training(chosen, rejected, lengths, found):
    assert doubts(chosen, rejected, *lengths) == found


def test_few_pairs_say_nothing():
    assert doubts(-95.0, -90.0, pairs=19) == []
    assert reference_doubts([], [], [], []) == ()


def test_a_model_that_prefers_some_chosen_answers_is_no_reason():
    chosen = [-40.0 if number % 2 else -60.0 for number in range(PAIRS)]
    assert reference_doubts(chosen, [-50.0] * PAIRS, [20] * PAIRS, [20] * PAIRS) == ()


def test_the_numbers_are_told():
    chosen = [-40.0 if number == 0 else -60.0 for number in range(PAIRS)]
    (doubt,) = reference_doubts(chosen, [-50.0] * PAIRS, [20] * PAIRS, [20] * PAIRS)
    assert "likelier in only 1 of 40 pairs" in doubt.message
    (doubt,) = reference_doubts([-90.0] * PAIRS, [-99.0] * PAIRS, [20] * PAIRS, [20] * PAIRS)
    assert "4.5 nats per token" in doubt.message
