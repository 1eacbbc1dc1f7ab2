"""The cost of every repetition setting."""
