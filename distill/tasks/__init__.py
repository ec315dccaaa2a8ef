"""What "good" means: from a model's outputs to records, and from records to metrics.

A task has `predict`, `score`, `metrics` and `primary`, and says what it needs: `reads`, the outputs
of a model that `predict` takes; `labelled`, whether examples need a label; and `prepare`, what it
does to a batch that a model is judged by, if anything.
"""
