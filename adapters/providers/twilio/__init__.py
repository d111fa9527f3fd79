"""Twilio: its webhooks, media streams, ConversationRelay and REST API."""
