"""A page that runs an exported .tflite file in the browser, its heat map over the user's own photographs."""
