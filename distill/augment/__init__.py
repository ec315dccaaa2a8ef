"""What may happen to a batch inside the step: `(batch, key) -> batch`, pure."""
