"""What a search tries and which candidate is best: pure bookkeeping, without Ray and torch.

`trial.py` the records, `space.py` which trials a round has, `ranking.py` candidates, Pareto front and winner,
`table.py` trials as Parquet. `orchestrate/sweep.py` runs the trials.
"""
