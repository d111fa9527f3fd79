"""Vendors made dependable: ports wrapped in ports, above the adapters and below the talk."""
