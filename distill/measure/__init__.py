"""What a model is worth: quality, cost, energy, faithfulness, robustness."""
