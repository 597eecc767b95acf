"""TensorRT plans: built in a child process, run on a GPU."""
