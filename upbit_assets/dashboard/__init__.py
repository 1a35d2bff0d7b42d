"""The market board: a page and a read-only API over gold and silver."""
