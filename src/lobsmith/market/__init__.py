"""Instruments, the event schema, the order book, readers, the simulator."""
