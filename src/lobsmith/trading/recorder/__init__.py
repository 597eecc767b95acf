"""Recording of live rows and answers in a process of its own, fed through shared memory."""
