"""Exported networks behind HTTP: the REST API of TensorFlow Serving without TensorFlow Serving, and files as they are.

Imports neither TensorFlow nor Keras: where .tflite files are served neither needs to be installed.
"""
