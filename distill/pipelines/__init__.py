"""Ways to call `fit`: each pipeline is a function of a config and a run."""
