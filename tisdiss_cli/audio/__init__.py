"""Sound files: find them, stream them in at the network's rate, stream voices out without clipping."""
