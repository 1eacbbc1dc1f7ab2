"""Pages to look at and listen to: a run's, and those of score's and bench's tables."""
