"""Export: artifacts that run without this project."""
