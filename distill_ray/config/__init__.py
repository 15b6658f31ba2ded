"""Settings of every part as frozen dataclasses that check themselves; standard library only."""
