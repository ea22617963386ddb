"""What every model has: the walk, heads on blocks, what trains, state and hooks."""
