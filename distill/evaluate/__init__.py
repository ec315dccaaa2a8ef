"""What a student is worth: its quality and its cost, measured, charted and reported."""
