"""Reads metrics from stdin as a scraper does, and prints one line a sample: its name, its labels as JSON, its value.

The parser is the one of prometheus_client, which holds the text against OpenMetrics: types, units, order, histograms,
the end. What it lets pass and we do not is held against it here. Anything that is wrong ends this with a status other
than 0.
"""

import json
import math
import re
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

LABEL = re.compile(r"[a-z][a-z0-9_]*")
NAME = re.compile(r"portolan_[a-z0-9_]+")


def check_family(family):
    assert NAME.fullmatch(family.name), f"{family.name}: no name of ours"
    assert family.documentation.endswith("."), f"{family.name}: says {family.documentation!r}"
    assert family.type != "unknown", f"{family.name}: has no type"
    for unit in ("seconds", "bytes"):
        if family.name.endswith("_" + unit):
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
    text = sys.stdin.buffer.read().decode("utf-8")
    seen = set()
    for family in text_string_to_metric_families(text):
        check_family(family)
        for sample in family.samples:
            check_sample(family, sample, seen)
            print(sample.name, json.dumps(sample.labels, sort_keys=True), repr(sample.value))
    assert seen, "nothing is told"
    # The parser takes a line that repeats the one before it for the same sample.
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert len(lines) == len(seen), f"{len(lines)} lines tell of {len(seen)} series"


main()
