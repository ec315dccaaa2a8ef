"""Models: `nnx` modules that turn a batch into named outputs."""
