"""The recorder: rows and predictions go through shared memory to a process that logs them."""
