"""Who asks: the client that holds a stream's state, and the replay of a session through it."""
