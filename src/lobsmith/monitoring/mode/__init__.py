"""The mode that clients keep to: state machine, store, hit rates."""
