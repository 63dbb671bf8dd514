"""Fixtures of the pipeline's tests."""

from smallworld import kept, made, threads_as_before, world  # noqa: F401
