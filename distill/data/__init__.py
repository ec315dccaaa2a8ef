"""Data: a name in a config, and seekable batches; `data[i]` depends on (seed, i) alone."""
