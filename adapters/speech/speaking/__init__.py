"""Synthesizers over vendors' wires."""
