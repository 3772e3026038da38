"""Residual networks as flat functional Keras graphs. Nothing here imports TensorFlow."""
