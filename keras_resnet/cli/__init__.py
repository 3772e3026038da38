"""The scripts: each parses its arguments first and imports TensorFlow afterwards, so that help comes at once."""
