"""The outside world behind the ports of :mod:`engine.ports`."""
