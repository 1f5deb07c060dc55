"""Checks of answers, specs made of them, and the judgement of one model against another."""
