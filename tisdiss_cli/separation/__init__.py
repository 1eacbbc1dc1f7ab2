"""Waveforms to voices: engine, Python API, chunking, early exit; knows nothing about files or options."""
