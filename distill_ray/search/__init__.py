"""What a search tries and which candidate is best: pure bookkeeping, without Ray and torch.

    table ─► trial ◄─ ranking ◄─ finalists ◄─ space

`trial.py` the records and their JSON, `table.py` the same as Parquet, `ranking.py` candidates, Pareto front,
winner and advice, `finalists.py` which candidates are trained at their own depth, `space.py` which trials a
round has. `orchestrate/sweep.py` runs the trials.
"""
