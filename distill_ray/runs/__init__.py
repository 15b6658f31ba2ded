"""The folder of a run: its settings, its place, what goes into it and what comes out of it."""
