"""The networks that turn frames into features."""
