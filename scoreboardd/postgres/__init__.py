"""Connections to PostgreSQL: for the platform's tables and for our own."""
