"""Gates predictions by the monitor's mode and the client's own drift score."""
