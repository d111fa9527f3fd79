"""What is kept of sessions: records, sealed in a vault, written by one actor, with a journal for bad times."""
