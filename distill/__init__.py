"""Knowledge distillation in JAX: one training loop, one objective, many models and methods."""

__version__ = '0.1.0'
