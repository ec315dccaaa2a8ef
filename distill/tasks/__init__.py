"""What "good" means: from a model's outputs to records, and from records to metrics."""
