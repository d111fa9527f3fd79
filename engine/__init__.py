"""Offhook: answers phone calls for voice agents, many at once in one process, and lets go of everything on hang-up."""

__version__ = "0.1.0"
