"""Plivo: its webhooks, audio streams and REST API."""
