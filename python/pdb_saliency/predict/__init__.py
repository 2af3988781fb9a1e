"""A video, or a work list of videos, in; a folder of results out."""
