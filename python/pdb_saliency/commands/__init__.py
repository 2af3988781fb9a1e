"""The arguments and the work of single commands; `cli` puts them together."""
