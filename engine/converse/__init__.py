"""The multi-turn conversation tester: scripts of what is said, and of what must come back and be remembered."""
