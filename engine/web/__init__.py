"""One port for everything: webhooks, media sockets, health and metrics."""
