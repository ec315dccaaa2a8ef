"""What was run, and what came out: a row for every run, and tables made of rows alone."""
