"""What all scripts share: one-line errors, exit codes, and flags that suggest the closest name.

Exit codes: 0 done; 1 the doctor's where training does not work; 2 something the user can mend (also a loss that is no
longer a number, and a prediction with files that could not be read); 130 interrupted by Ctrl-C; 143 ended by SIGTERM.
Anything else is our mistake and shows its traceback.
"""

import argparse
import contextlib
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from keras_resnet.errors import UserError, unknown_name


class Terminated(KeyboardInterrupt):
    """SIGTERM, so that what cleans up after Ctrl-C cleans up after it, too."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s: one line, with the closest name where a name is wrong."""

    def __init__(self, **options: Any):
        # Abbreviated flags would change their meaning when a flag is added.
        super().__init__(
            **{
                "allow_abbrev": False,
                "formatter_class": _HelpFormatter,
                **options,
            }
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        parsed, extra = self.parse_known_args(args, namespace)
        flags = [argument for argument in extra if argument.startswith("-") and len(argument) > 1]
        if flags:
            known = [option for action in self._actions for option in action.option_strings]
            raise unknown_name("flag", flags[0].split("=")[0], known)
        if extra:
            raise UserError(f"{self.prog} does not expect {extra[0]!r}. See {self.prog} --help.")
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = action.option_strings[-1] if action.option_strings else action.dest
            raise unknown_name(f"value of {kind}", value, map(str, action.choices))

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): (must .*)", r"\1 \2", message)
        raise UserError(f"{message[0].upper()}{message[1:]}. See {self.prog} --help.")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def at_least(lowest: int) -> Callable[[str], int]:
    """Returns an argument type: whole numbers from `lowest` on."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if number < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, got {number}")
        return number

    return whole_number


positive_int = at_least(1)


def run(command: Callable[[argparse.Namespace], int | None], parser: Parser, argv: Sequence[str] | None) -> int:
    """Parses arguments, runs a script's command and turns what went wrong into a line and an exit code.

    Args:
        command: Takes the parsed arguments, returns the exit code (None: 0).
        parser: The script's parser.
        argv: The arguments; default: the process's.

    Returns:
        The exit code.
    """
    # TensorFlow tells about its build on every import; set the variable to 0 to see it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):
        # A label or a file's name may hold letters that the terminal lacks; they are shown as \\uXXXX then.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    interrupts = _Interrupts()
    try:
        return command(parser.parse_args(argv)) or 0
    except UserError as error:
        _close_bars()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "keras_resnet").partition(".")[0] == "keras_resnet":
            raise
        print(
            f"error: {sys.executable} has no package {error.name!r}. Install what the project needs: "
            "pip install -r requirements.txt",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as interrupt:
        _close_bars()
        print(f"\n{str(interrupt) or 'Interrupted.'}", file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130
    except Exception:
        # A library may turn the interrupt that it met in a callback into an error of its own.
        if interrupts.received is None:
            raise
        _close_bars()
        print("\nInterrupted.", file=sys.stderr)
        return 128 + interrupts.received
    finally:
        interrupts.restore()


def dispatch(program: str, verbs: Mapping[str, tuple[str, str]], argv: Sequence[str] | None) -> int:
    """Runs one of several commands, loading its module alone.

    Args:
        program: What the user typed before the verb.
        verbs: Verb → ("package.module:function", help). The function takes the arguments behind the verb and returns
            the exit code.
        argv: The arguments; default: the process's.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, verbs))
        print(f"usage: {program} VERB ...\n")
        print("\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in verbs.items()))
        print(f"\n{program} VERB --help tells more.")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in verbs:
        print(f"error: {unknown_name('command', verb, verbs)}", file=sys.stderr)
        return 2
    module, function = verbs[verb][0].split(":")
    return getattr(importlib.import_module(module), function)(rest)


def check_data_set(name: str) -> None:
    """Raises the UserError for a data set whose name is unknown, without loading TensorFlow."""
    from keras_resnet.data.sources import SOURCES, load_source

    if name.partition(":")[0] not in SOURCES:
        load_source(name)


def _close_bars() -> None:
    if "tqdm" in sys.modules:  # else there are none, and it may not be installed
        from keras_resnet.progress import close_bars

        close_bars()


class _Interrupts:
    """Ctrl-C and SIGTERM as exceptions, once: a second one ends the process at once and without a traceback.

    Attributes:
        received: The signal that came; None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread
                self._previous[number] = signal.signal(number, self._interrupt)

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: Any) -> NoReturn:
        if self.received is not None:
            os._exit(128 + number)  # files are written beside and renamed: nothing is half written
        self.received = number
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
