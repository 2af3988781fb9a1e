"""A video, or a folder of videos, in; a folder of results out."""
