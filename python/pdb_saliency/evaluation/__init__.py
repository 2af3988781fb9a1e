"""Scores of saliency maps and masks, and the paper's tables."""
