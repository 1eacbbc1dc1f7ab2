"""Sound to learn and score from: datasets in their layouts, clean speech by speaker, and mixtures of it."""
