"""SignalWire: Twilio's language, signed its own way."""
