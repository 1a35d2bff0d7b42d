"""The market board: a page, and a small read-only API, over gold and silver."""
