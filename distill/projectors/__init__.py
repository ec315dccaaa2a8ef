"""Modules between views, trained with the student and left out of its export."""
