"""Recognisers and synthesizers."""
