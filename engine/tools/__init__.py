"""What models may call: those that are built in, HTTP endpoints, Python callables; and how they are called."""
