"""A folder in, a folder out."""
