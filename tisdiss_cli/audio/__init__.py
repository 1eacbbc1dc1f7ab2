"""Sound files: found, read at a rate as streams, written without clipping; knows nothing about networks or runs."""
