"""What the machine gives: the time of day, file descriptors, compression."""
