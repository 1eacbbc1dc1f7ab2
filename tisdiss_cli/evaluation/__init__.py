"""Scores of a separation, and what is fitted to them."""
