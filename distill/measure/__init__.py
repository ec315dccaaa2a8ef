"""Measurements of a model: quality, cost, energy, faithfulness, robustness."""
