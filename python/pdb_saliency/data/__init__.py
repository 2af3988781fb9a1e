"""Data sets as they are published, and the clips that training makes of them."""
