"""The memory behind calls and texts: session actors, what they keep, and who may see it."""
