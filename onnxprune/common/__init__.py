"""What every room may use: errors, progress, registries, the environment; knows nothing of pruning."""
