"""Datasets, speech corpora and mixtures drawn from them; knows nothing about networks or options."""
