"""Connections to PostgreSQL, for the platform's tables and for the daemon's own table."""
