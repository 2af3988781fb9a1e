"""How long each stage of `predict` takes, and the least that it could take."""
