"""What works on this machine: versions, devices, a short training, and the known pitfalls of the installed stack.

Nothing here is imported by the rest of the project but the doctor's command, and nothing here needs TensorFlow before a
process of its own tries it.
"""
