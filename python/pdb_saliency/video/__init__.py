"""Reading and writing videos and pictures."""
