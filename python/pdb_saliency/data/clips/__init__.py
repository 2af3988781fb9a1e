"""Training clips, read from videos or made of stills."""
