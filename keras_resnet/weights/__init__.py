"""Weights from elsewhere: PyTorch, keras.applications and the catalogue of published files; and back to PyTorch."""
