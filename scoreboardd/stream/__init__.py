"""Server-Sent Events: how a connection becomes a stream, and how thousands of streams are served."""
