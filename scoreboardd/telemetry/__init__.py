"""Telemetry of the daemon: metrics, logs and systemd notifications."""
