"""Calls that we make: who may be called, how often, and what became of it."""
