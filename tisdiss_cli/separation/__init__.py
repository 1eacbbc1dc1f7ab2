"""Waveforms to voices: the Python API, long recordings in chunks, and when enough repeats have been done."""
