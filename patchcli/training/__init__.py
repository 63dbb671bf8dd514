"""The encoder learns (supplement, Algorithm 1, lines 1 to 9): start at loop.py."""
