"""Commands as jobs of a Ray cluster: sending, following, ending them and fetching what they made."""
