"""Telephony providers: wire codecs without I/O, webhook signatures, answer documents, REST control."""
