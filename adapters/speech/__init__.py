"""Speech: recognisers (hearing), synthesizers (speaking), and both without an account (embedded)."""
