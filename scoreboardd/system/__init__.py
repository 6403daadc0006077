"""System facilities: the clock, file descriptors, compression and back-off."""
