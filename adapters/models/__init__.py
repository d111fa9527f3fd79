"""Language models over HTTP, and a program as one."""
