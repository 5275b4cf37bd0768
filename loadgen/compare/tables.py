"""Shared by the tables of the scripts in this folder."""

import json
import statistics

NAMES = {
    "hi": "hi",
    "tokio": "tokio and fastwebsockets",
    "bun": "Bun",
    "nchan": "nginx with nchan",
}


def load(path):
    """A result of loadgen's --json."""
    with open(path) as file:
        return json.load(file)


def verdict(run):
    """sound, failed or invalid."""
    return run["verdict"]["verdict"]


def reasons(run):
    """Why the verdict is not sound: a list of sentences."""
    return run["verdict"].get("reasons", [])


def in_time(run, slo_ms):
    """Whether everything arrived with p99 within slo_ms. loadgen may have been the limit."""
    return verdict(run) != "failed" and run["latency"]["p99_us"] <= slo_ms * 1e3


def holds(run, slo_ms):
    """The same, and loadgen was not the limit."""
    return verdict(run) == "sound" and in_time(run, slo_ms)


def median(values):
    """The median of a list that may be empty or contain None."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def ratio(ours, theirs):
    """The median of the rounds' ratios; None in a list is a round that doesn't count."""
    return median([a / b for a, b in zip(ours, theirs) if a is not None and b])


def number(value, digits=2):
    """A number for a cell; a dash if it is unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def table(head, rows):
    """Prints Markdown: the first column is text, the others are numbers; `head` and `rows` hold strings."""
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
