"""What the engine tells about itself: metrics, logs, the timeline of a call."""
