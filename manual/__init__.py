"""The manual's tools: the data dictionary, generated from the code, and the site built from docs/."""
