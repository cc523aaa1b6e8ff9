"""Programs: how the cells of one kind of table are computed."""
