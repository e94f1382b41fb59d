"""Reads metrics from stdin as a scraper does, and prints one line a sample: its name, its labels as JSON, its value.

The parsers are those of prometheus_client, for the format that is named. The one of OpenMetrics holds the text against
it: types, units, order, histograms, the end. What they let pass and we do not is held against it here. Anything that
is wrong ends this with a status other than 0.
"""

import json
import math
import re
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

LABEL = re.compile(r"[a-z][a-z0-9_]*")
NAME = re.compile(r"portolan_[a-z0-9_]+")


# Comments of the older format that say something.
COMMENTS = ("# HELP ", "# TYPE ")
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")


def check_older(text):
    """The parser takes any comment and any type; others do not."""
    types = {}
    for line in text.split("\n"):
        assert not line.startswith("#") or line.startswith(COMMENTS), f"{line}: is none of this format"
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert kind in TYPES, f"{line}: is no type"
            assert name not in types, f"{line}: stands twice"
            types[name] = kind
        elif line and not line.startswith("#"):
            name = re.match(r"[a-z0-9_]*", line)[0]
            of_histogram = [name.removesuffix(suffix) for suffix in ("_bucket", "_sum", "_count")]
            is_told = name in types or any(types.get(family) == "histogram" for family in of_histogram)
            assert is_told, f"{line}: has no type"
    assert text.endswith("\n"), "the last line does not end"


def check_family(family, is_older):
    assert NAME.fullmatch(family.name), f"{family.name}: no name of ours"
    assert family.documentation.endswith("."), f"{family.name}: says {family.documentation!r}"
    assert family.type != "unknown", f"{family.name}: has no type"
    for unit in ("seconds", "bytes"):
        if family.name.endswith("_" + unit) and not is_older:
            assert family.unit == unit, f"{family.name}: is in {family.unit!r}"


def check_sample(family, sample, seen):
    series = (sample.name, tuple(sorted(sample.labels.items())))
    assert series not in seen, f"{series}: stands twice"
    seen.add(series)
    assert all(LABEL.fullmatch(label) for label in sample.labels), f"{series}: has a strange label"
    assert math.isfinite(sample.value) and sample.value >= 0, f"{series}: is {sample.value}"
    assert sample.timestamp is None, f"{series}: says when, which is the scraper's to say"
    if family.type == "counter":
        assert sample.name.endswith("_total"), f"{series}: is a counter by another name"


def main():
    is_older = {"openmetrics": False, "0.0.4": True}[sys.argv[1]]
    text = sys.stdin.buffer.read().decode("utf-8")
    if is_older:
        check_older(text)
    families = (parser if is_older else openmetrics_parser).text_string_to_metric_families(text)
    seen = set()
    for family in families:
        check_family(family, is_older)
        for sample in family.samples:
            check_sample(family, sample, seen)
            print(sample.name, json.dumps(sample.labels, sort_keys=True), repr(sample.value))
    assert seen, "nothing is told"
    # The parser takes a line that repeats the one before it for the same sample.
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert len(lines) == len(seen), f"{len(lines)} lines tell of {len(seen)} series"


main()
