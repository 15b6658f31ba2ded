"""The search: what it tries, which candidate is best, and its trials on Ray Tune.

Without Ray and torch, pure bookkeeping:

    table ─► trial ◄─ ranking ◄─ finalists ◄─ space

`trial.py` the records and their JSON, `table.py` the same as Parquet, `ranking.py` candidates, Pareto front,
winner and advice, `finalists.py` which candidates are trained at their own depth, `space.py` which trials a
round has. `tune/driver.py` runs the trials.
"""
