"""Formats that a model ships in."""
