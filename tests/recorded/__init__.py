"""The bytes that a client of the daemon receives, recorded once and compared from then on. See README.md."""
