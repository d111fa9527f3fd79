"""Telnyx: its webhooks, media streams and REST API."""
