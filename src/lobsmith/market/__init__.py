"""Events, the order book, readers, the simulator."""
