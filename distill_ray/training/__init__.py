"""The two training loops and what they stand on: torch, no Ray."""
