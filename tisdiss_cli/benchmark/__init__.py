"""Cost of every repetition setting; knows nothing about commands."""
