"""What browsers, proxies and monitors see: documents and the stream on one listener, health and metrics on another."""
