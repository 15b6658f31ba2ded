"""How every command ends: one result on stdout, or one sentence on stderr and an exit code.

`main.py` wraps each command in `only_results_on_stdout` and runs the app through `run`; a command's last
act is `finish` (or its result goes through `bytes_on_stdout`). Nothing else in the package writes to stdout.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import typer

from distill_ray.cli.signals import LastResort, Signals
from distill_ray.display.failure import forget
from distill_ray.errors import CancelledError, ConfigError, DistillError, UsageError
from distill_ray.events import lines as job_lines
from distill_ray.foreign import ascii_controls, printable
from distill_ray.jsonable import jsonable
from distill_ray.uri import redacted

_GO_ON = ("run", "train", "train-prior", "tune")
"""The commands that, given again, go on where they were interrupted."""
READER_GONE = 128 + 13  # SIGPIPE
_CURSOR = "\x1b[?25h\n"
"""Shows the terminal's cursor again, which a live view has hidden, on a line of its own."""
_INTERRUPTED = 130  # what Typer makes of a KeyboardInterrupt
_results: list[TextIO] = []  # the real stdout while a command runs; empty outside of one


def finish(
    document: Mapping[str, Any],
    *,
    result: str | Path | Sequence[str] | None = None,
    as_json: bool,
    exit_code: int = 0,
) -> None:
    """End a command: `document` as JSON, or else what it made, a path or lines, on stdout.

    Values that JSON has no number for (NaN, infinities) become null; paths become text. Leaves with
    typer.Exit where `exit_code` is not 0. A job's client gets the document whatever was asked for.
    """
    if job_lines.wanted():
        shown = None if result is None else "\n".join(_lines(result))
        job_lines.say("result", {"document": jsonable(document), "result": shown})
    if as_json:
        _print(_json(document))
    elif result is not None:
        _print("\n".join(map(printable, _lines(result))))
    if exit_code:
        raise typer.Exit(exit_code)


def _lines(result: str | Path | Sequence[str]) -> Sequence[str]:
    return [str(result)] if isinstance(result, str | Path) else result


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Send what anything else prints to stdout (Ray's workers, native libraries) to stderr instead."""
    try:
        stdout, stderr = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # captured streams have no descriptor to move
        yield
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(stdout), "w", encoding="utf-8") as results:
        os.dup2(stderr, stdout)
        _results.append(results)
        try:
            yield
        finally:
            _results.pop()
            sys.stdout.flush()
            os.dup2(results.fileno(), stdout)


@contextmanager
def bytes_on_stdout() -> Iterator[BinaryIO]:
    """stdout for a result that is bytes; used instead of `finish`. The bytes are flushed at the end.

    Where their reader goes away, as a player that is closed, the command ends without a word and with the
    code that a shell gives a program that SIGPIPE ended.
    """
    stream = _result_stream()
    try:
        yield stream.buffer
        stream.buffer.flush()
    except BaseException as error:
        # Ctrl-C mostly falls into a write that waits for the player; closing would wait for it again.
        forget(stream)
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(READER_GONE) from None
        if isinstance(error, OSError):
            raise _unwritable(error) from error
        raise


def run(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run the app and return the exit code; every way to fail ends in words, never in a traceback."""
    as_json = "--json" in arguments
    if sys.stderr is None:  # closed, as some daemons do: progress and complaints have no reader
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115

    def stuck() -> int:
        message = "stopped at once; what it waited for, Ray's start or end, is left to itself"
        sys.stderr.write(_CURSOR if sys.stderr.isatty() else "")
        return _ended(CancelledError(message), arguments, as_json)

    with Signals() as signals, LastResort(stuck):
        try:
            outcome = _outcome(app, arguments)
            signals.ignore()
        except KeyboardInterrupt:  # another one, while the first was dealt with
            signals.ignore()
            outcome = _INTERRUPTED
        return _ended(outcome, arguments, as_json)


def _outcome(app: Callable[..., Any], arguments: Sequence[str]) -> Any:
    """What the app returned or raised."""
    try:
        with _log_as_lines():
            return app(args=list(arguments), prog_name="distill-ray", standalone_mode=False)
    except Exception as error:
        return error


def _ended(outcome: Any, arguments: Sequence[str], as_json: bool) -> int:
    if isinstance(outcome, DistillError):
        code = _fail(outcome, as_json)
        if outcome.goes_on:
            _say_how_to_go_on(arguments)
        return code
    if isinstance(outcome, Exception):
        # New versions of Typer bring their own Click, so usage errors have no base to import for all of them.
        if hasattr(outcome, "format_message"):
            return _usage_error(outcome, as_json)
        return _unexpected(outcome, as_json)
    if outcome == _INTERRUPTED:
        how = "stopped from outside" if job_lines.wanted() else "cancelled by Ctrl-C"
        outcome = _fail(CancelledError(how), as_json)
    if outcome == CancelledError.exit_code:
        _say_how_to_go_on(arguments)
    return outcome if isinstance(outcome, int) else 0


def _say_how_to_go_on(arguments: Sequence[str]) -> None:
    """The one line that goes on with a command that was interrupted; not in a job, whose client has it."""
    words = list(arguments)
    if words[:1] not in ([name] for name in _GO_ON) or job_lines.wanted():
        return
    end = words.index("--") if "--" in words else len(words)
    again = [word for place, word in enumerate(words) if word != "--new" or place > end]
    say(f"go on with: {shlex.join(['distill-ray', *again])}")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"{record.levelname.lower()}: {record.getMessage()}")
        if record.exc_info:
            _quote("".join(traceback.format_exception(*record.exc_info)))


@contextmanager
def _log_as_lines() -> Iterator[None]:
    """What our modules log are lines like all others; Python's own handler would print it as it is."""
    log, handler = logging.getLogger("distill_ray"), _Lines(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _fail(error: DistillError, as_json: bool) -> int:
    if isinstance(error, ConfigError):
        lines = [str(problem) for problem in error.problems]
    else:
        lines = [str(error)]
    for line in lines:
        _complain(line)
    facts: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ConfigError):
        facts["problems"] = [
            {"flag": problem.flag, "key": problem.key, "message": problem.message}
            for problem in error.problems
        ]
    return _error_document(facts, error.exit_code, as_json)


def _usage_error(error: Any, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        message = "a command is missing"
    else:
        message = _in_our_style(error.format_message())
    _complain(message)
    if context is not None:
        print(f"Try '{context.command_path} --help'.", file=sys.stderr)
    return _error_document({"type": "UsageError", "message": message}, error.exit_code, as_json)


def _in_our_style(message: str) -> str:
    # Typer's messages are "Missing option '--out'."; ours begin small and have no full stop.
    message = " ".join(line.strip() for line in message.splitlines())
    return message[:1].lower() + message[1:].rstrip(".")


def _unexpected(error: Exception, as_json: bool) -> int:
    text = redacted("".join(traceback.format_exception(error)))
    if job_lines.wanted():
        _quote(text)
        where = "the traceback is in the job's log"
    elif os.environ.get("DISTILL_RAY_TRACEBACK") == "1":
        _quote(text)
        where = "the traceback is above"
    else:
        where = _keep_traceback(text)
    message = f"unexpected {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}; {where}"
    _complain(message)
    return _error_document({"type": type(error).__name__, "message": message}, 1, as_json)


def _keep_traceback(text: str) -> str:
    name = f"distill-ray-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=name, suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError as error:
        return f"its traceback could not be written ({error.strerror}); set DISTILL_RAY_TRACEBACK=1 to see it"
    return f"its traceback is in {file.name}"


def _error_document(facts: Mapping[str, Any], exit_code: int, as_json: bool) -> int:
    if job_lines.wanted():
        job_lines.say("error", {**facts, "exit_code": exit_code})
    if as_json:
        with suppress(OSError, UsageError):  # there is nobody to tell
            _print(_json({"error": {**facts, "exit_code": exit_code}}))
    return exit_code


def say(line: str) -> None:
    """Print a line for people, on stderr; what is not printable in it is shown as escapes."""
    with suppress(OSError):  # a closed stderr must not change the exit code
        print(printable(line), file=sys.stderr, flush=True)


def _quote(text: str) -> None:
    """Lines of which some may be foreign: none of them begins as one of ours does."""
    for line in text.splitlines():
        say(f"  | {line}")


def tell(sentence: str) -> None:
    """As `say`, but on a terminal in lines that break between words; not for what is to be copied."""
    for part in _wrapped(sentence) if sys.stderr.isatty() else [sentence]:
        say(part)


def _complain(message: str) -> None:
    tell(f"error: {message}")


def shown_to_a_person() -> bool:
    """Whether results go to a terminal."""
    return _result_stream().isatty()


def labelled(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of a label and a value; on a terminal a value that is too long for one goes on below itself."""
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}  {value}" for label, value in rows]
    if not shown_to_a_person():
        return lines
    return [part for line in lines for part in _wrapped(line, indent=width + 2)]


def _wrapped(line: str, *, indent: int = 0) -> list[str]:
    """The line in as many as the terminal needs, broken between words alone."""
    return textwrap.wrap(
        line,
        shutil.get_terminal_size().columns,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _print(text: str) -> None:
    stream = _result_stream()
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        forget(stream)
        if isinstance(error, BrokenPipeError):
            raise
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> UsageError:
    return UsageError(f"the result cannot be written to stdout ({error.strerror}); send it elsewhere")


def _result_stream() -> TextIO:
    stream: TextIO | None = _results[-1] if _results else sys.stdout
    if stream is None:
        raise UsageError("stdout is closed, so the result has nowhere to go; leave it open")
    return stream


def _json(document: Mapping[str, Any]) -> str:
    text = json.dumps(jsonable(document), allow_nan=False, ensure_ascii=False, indent=2)
    return ascii_controls(text)
