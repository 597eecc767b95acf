"""The mode of a model: state machine, store, hit rates."""
