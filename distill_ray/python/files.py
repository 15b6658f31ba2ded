"""The functions on files for Python: those that the commands call, with messages that name arguments."""

from __future__ import annotations

from distill_ray.argument_names import names_arguments
from distill_ray.corpus import corpus, prepare
from distill_ray.evaluate import evaluate
from distill_ray.generate import folders, generate, stream, transcode

prepare_corpus = names_arguments(prepare.prepare_corpus)
open_corpus = names_arguments(corpus.open_corpus)
ensure_corpus = names_arguments(corpus.ensure_corpus)
evaluate_model = names_arguments(evaluate.evaluate_model)
generate_samples = names_arguments(generate.generate_samples)
generate_stream = names_arguments(stream.generate_stream)
encode_file = names_arguments(transcode.encode_file)
decode_file = names_arguments(transcode.decode_file)
encode_folder = names_arguments(folders.encode_folder)
decode_folder = names_arguments(folders.decode_folder)
