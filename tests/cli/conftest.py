"""Fixtures of the command line."""

from tests.cli.stored import original, stored

__all__ = ["original", "stored"]
