"""Keras graphs of any classifier: flattened, folded, rewritten for another precision."""
