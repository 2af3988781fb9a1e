"""Data sets on disk, as they are published."""
