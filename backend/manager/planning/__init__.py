"""What a run will cost, from its settings, its model's shape and the runs before it."""
