"""What the daemon says of itself: metrics, logs, and to systemd."""
