"""What a check found. Imports nothing of the project."""

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """The answer of one check.

    Attributes:
        status: "ok"; "note": something to know, which the project itself gets along with; "problem": something that
            it needs does not work.
        found: What was found.
        advice: What to do; "" where there is nothing to do.
        stops_training: Whether the default training cannot work because of it.
        check: What was looked at, as the table names it.
    """

    status: str
    found: str
    advice: str = ""
    stops_training: bool = False
    check: str = ""


def training_works(findings: list[Finding]) -> bool:
    """Returns whether nothing was found that stops the default training."""
    return not any(finding.stops_training for finding in findings)
