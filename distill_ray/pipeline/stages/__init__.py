"""The stages of `distill-ray run`: each says from what is on disk whether it has to run, and runs.

OUT/corpus       prepare   the sources as a corpus (a corpus that is given is used where it is)
OUT/search       tune      the search; or OUT/codec, one training run, stage `codec`
OUT/NAME.distill           a copy of the best codec, to which `prior` adds the prior (run in OUT/NAME.prior)
OUT/samples      samples   sounds that the model makes

A stage that was cut goes on from its own folder; a finished one is never run again, and no file of it is
replaced by another.
"""
