"""Programs: each computes the cells of one kind of table."""
