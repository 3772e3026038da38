"""The error that a user can mend, and the sentence for a name that does not exist.

Every message states the rule, what was received and what to do. The scripts turn a `UserError` into one line on
standard error and exit code 2; everything else keeps its traceback, because it is our mistake.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What a user got wrong: an argument, a file or a folder. Its message is shown without a traceback."""


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> UserError:
    """Builds the error for a name that is not in a table, naming the closest valid ones.

    Args:
        kind: What the name was meant to be, for example "model".
        name: What was received.
        valid: The names of the table.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(valid)
    closest = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.5)
    if closest:
        advice = "Closest: " + ", ".join(repr(match) for match in closest) + "."
    else:
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        advice = f"Valid: {shown}."
    return UserError(f"Unknown {kind} {str(name)!r}. {advice}")
