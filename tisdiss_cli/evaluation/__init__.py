"""Scores of a separation, and calibration by them; knows nothing about runs of a folder."""
