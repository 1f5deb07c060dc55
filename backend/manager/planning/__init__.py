"""Estimate the cost of a run from its settings, its model's shape and past runs."""
