"""Distillation and comparison of any models by a call, without a config: `import distill`.

It is the step, the objective and the loop of every run: what a call gives is what a config that
says the same gives, to the bit.
"""
from distill.notebook.comparison import compare
from distill.notebook.training import distill

__all__ = 'compare', 'distill'
