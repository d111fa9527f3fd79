"""Fake vendors and providers on loopback, each speaking its real wire; the vendors' own clients are the judges."""
