"""Jobs, schedules and sensors: collection, recomputation of changed windows, and backfill of missing data."""
