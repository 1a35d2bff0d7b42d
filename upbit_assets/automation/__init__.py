"""What runs by itself: collecting, computing again what changed, and filling in what was not collected."""
