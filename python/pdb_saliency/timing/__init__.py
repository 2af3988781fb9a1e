"""How long every stage of `predict` takes."""
