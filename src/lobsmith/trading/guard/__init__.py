"""May an answer be acted on: the monitor's mode and the client's own drift score."""
