"""What every repetition setting costs."""
