"""The command line: `main.py` holds the app, one file a command, `output.py` how each of them ends."""
