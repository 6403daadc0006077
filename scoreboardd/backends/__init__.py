"""The seam to what the nodes share: a lock, the documents, and a bus. `base` says what a backend promises."""
