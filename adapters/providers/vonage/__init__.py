"""Vonage: its webhooks, media sockets, texts and REST API."""
