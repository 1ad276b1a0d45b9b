"""The clients that are measured: each with its own codec in the loop, and nothing on the wire."""
