"""The Redis backend (Valkey as well)."""
