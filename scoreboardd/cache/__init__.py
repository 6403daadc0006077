"""What this node serves: the documents in memory, and the copy in PostgreSQL that outlives Redis."""
