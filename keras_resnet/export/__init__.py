"""Trained networks as files for servers and phones, each checked against the network that it came from."""
