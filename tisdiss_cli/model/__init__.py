"""The network and its weight files; knows nothing about recordings, chunks or options."""
