"""Speech with no account: the models of the process, and what a call opens of them."""
