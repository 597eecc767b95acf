"""What happened: instruments, the event schema, the order book, readers, the simulator."""
