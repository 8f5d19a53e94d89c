"""The network and its training: the only place that imports torch at module level."""
