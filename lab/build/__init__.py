"""From buildspec to artifact."""
