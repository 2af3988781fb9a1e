"""The measures, one module for each source of definitions."""
