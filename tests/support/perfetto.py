"""Reads a drawing as Perfetto's JSON importer does, and refuses what that would drop.

Spec: Trace Event Format (Google): JSON Array Format; the members that each phase needs
"""

import json
from collections import defaultdict
from itertools import pairwise

NEEDED = {
    "M": {"name", "ph", "pid", "args"},
    "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid"},
    "i": {"name", "cat", "ph", "ts", "pid", "tid", "s"},
}


def tracks(text):
    """{tenant: {track: [events, oldest first]}}."""
    events = json.loads(text)
    assert isinstance(events, list)
    processes, threads = {}, {}
    found = defaultdict(lambda: defaultdict(list))
    for event in events:
        assert NEEDED[event["ph"]] <= set(event), event
        if event["ph"] == "M":
            name = event["args"]["name"]
            assert isinstance(name, str)
            if event["name"] == "process_name":
                assert event["pid"] not in processes
                processes[event["pid"]] = name
            else:
                assert event["name"] == "thread_name"
                # A tid that is a pid, or is there twice, is drawn on another track.
                assert event["tid"] not in {*processes, *(tid for _, tid in threads)}
                threads[event["pid"], event["tid"]] = name
            continue
        assert isinstance(event["ts"], int | float)
        assert event["ts"] >= 0
        assert event.get("dur", 0) >= 0
        assert event.get("s", "t") in ("t", "p", "g")
        assert isinstance(event.get("args", {}), dict)
        place = event["pid"], event["tid"]
        found[processes[event["pid"]]][threads[place]].append(event)
    for each in found.values():
        for track in each.values():
            track.sort(key=lambda event: event["ts"])
            spans = [event for event in track if event["ph"] == "X"]
            for one, following in pairwise(spans):
                # Slices of a track that overlap and do not nest are dropped.
                assert one["ts"] + one["dur"] <= following["ts"] + 0.001
    assert len(set(processes.values())) == len(processes)
    return found
