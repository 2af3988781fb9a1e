"""Losses, the paper's two stages, and everything a run writes and resumes from."""
