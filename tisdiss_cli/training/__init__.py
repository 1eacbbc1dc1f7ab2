"""Training: recipes, the multi-loss, optimisers, the loop and its checkpoints; knows nothing about options."""
