"""Questions about residual networks, answered by training some."""
