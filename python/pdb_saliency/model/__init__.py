"""The network of the paper and its variants: layers, configuration, weights."""
