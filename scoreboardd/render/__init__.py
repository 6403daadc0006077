"""The bytes of the documents: the one place that writes, reads, splits and compares them."""
