"""From data to file: the training of a codec and of a prior, and the stages of `distill-ray run`."""
