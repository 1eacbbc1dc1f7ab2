"""A run over a folder: inputs in, voices out, safely; knows nothing about terminals or how networks work."""
