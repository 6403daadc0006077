"""The demo: embedded PostgreSQL and Valkey servers and a simulated contest. The tests use both, too."""
