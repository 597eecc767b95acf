"""May it ship: parity and skill, each answered by a verdict."""
