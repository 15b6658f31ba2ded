"""The functions on files for Python: those that the commands call, with messages that name arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from distill_ray.argument_names import names_arguments
from distill_ray.argument_types import checks_arguments
from distill_ray.corpus import corpus, prepare
from distill_ray.evaluate import evaluate
from distill_ray.generate import folders, generate, stream, transcode

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


def _public(function: Callable[ParamsT, ResultT]) -> Callable[ParamsT, ResultT]:
    return names_arguments(checks_arguments(function))


prepare_corpus = _public(prepare.prepare_corpus)
open_corpus = _public(corpus.open_corpus)
ensure_corpus = _public(corpus.ensure_corpus)
evaluate_model = _public(evaluate.evaluate_model)
generate_samples = _public(generate.generate_samples)
generate_stream = _public(stream.generate_stream)
encode_file = _public(transcode.encode_file)
decode_file = _public(transcode.decode_file)
encode_folder = _public(folders.encode_folder)
decode_folder = _public(folders.decode_folder)
