"""Frames in, saliency maps out, as fast as the device allows."""
