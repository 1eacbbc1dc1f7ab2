"""The network, nothing else: configuration, paths, stages, weight files, published names."""
