"""Training: a corpus in memory, mixtures drawn from it, the multi-loss, the schedule, the loop and its checkpoints."""
