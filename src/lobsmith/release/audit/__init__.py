"""Is the repository what it claims, and mending what is not."""
