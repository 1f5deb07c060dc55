"""The reward audit in words."""

from __future__ import annotations

from dataclasses import replace

from backend.run.reports import Rollout
from backend.run.reward_audit import RewardAudit, RewardBin

BEST = Rollout("p.jsonl:3", "Which\nfood?", "plum " * 40, 1.0, {"equals": 1.0}, 0.5, 40, is_truncated=False)
AUDIT = RewardAudit(
    16, 8, 0.25, 0.4, 0.5, 0.125, (RewardBin(0.0, 0.5, 30), RewardBin(0.5, 1.0, 10)), BEST, BEST, 4.0, 900.0
)


def test_it_is_hopeless_above_nine_groups_in_ten() -> None:
    assert not replace(AUDIT, flat_share=0.9).is_hopeless
    assert replace(AUDIT, flat_share=0.95).is_hopeless


def test_its_lines_say_all_of_it() -> None:
    lines = list(AUDIT.lines())
    assert lines[0] == AUDIT.summary
    assert "16 prompts earn 0.250" in lines[0]
    assert "50%" in lines[0]
    assert [line.count("█") for line in lines[1:3]] == [20, 7]
    assert lines[3].startswith("Best (1.000), p.jsonl:3: 'Which food?' → 'plum plum")
    assert len(lines[3]) < 200
    assert lines[-1].startswith("12% of the answers")


def test_nothing_known_is_nothing_shown() -> None:
    empty = replace(AUDIT, distribution=(), best=None, worst=None, clipped_ratio=0.0)
    assert list(empty.lines()) == [empty.summary]
