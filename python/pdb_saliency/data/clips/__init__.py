"""Sources of training clips: frames of videos, and clips made of stills and cut-outs."""
