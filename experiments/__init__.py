"""Experiments and their results: a row for every run, and tables made of rows alone."""
