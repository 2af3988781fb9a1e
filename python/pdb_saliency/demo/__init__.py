"""A drawn clip with known masks, for a first run without any data."""
