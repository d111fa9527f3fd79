"""Recognisers: over vendors' wires, and by segments that are cut here."""
