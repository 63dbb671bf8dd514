"""The encoder learns (Algorithm 1, lines 2 to 8)."""
