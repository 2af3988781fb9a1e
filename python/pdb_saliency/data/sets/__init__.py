"""Still and video data sets on disk."""
