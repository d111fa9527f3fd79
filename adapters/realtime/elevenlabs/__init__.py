"""ElevenLabs Agents: spoken over a socket, written over a socket, and over HTTP."""
