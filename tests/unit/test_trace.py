"""The record of events, and the detailed ones that somebody must want."""

import itertools

from mdevemu.trace import Trace


def made():
    return Trace(itertools.count().__next__)


def test_detail_is_wanted_by_its_name_or_by_what_it_begins_with():
    trace = made()
    assert not trace.wants("iommu.walk")
    trace.want("iommu.walk")
    assert trace.wants("iommu.walk")
    assert not trace.wants("iommu.hit")
    assert not trace.wants("iommu.walks")
    assert not trace.wants("iommu")
    trace.want("iommu")
    assert trace.wants("iommu.hit")
    assert not trace.wants("iommus.hit")
    assert trace.wanted == {"iommu", "iommu.walk"}
    trace.want("iommu", False)
    assert trace.wants("iommu.walk")
    assert not trace.wants("iommu.hit")
    trace.want("iommu.walk", False)
    trace.want("never.asked", False)
    assert not trace.wanted


def test_switching_is_told_after_it_happened():
    trace, heard = made(), []
    trace.on_switch(lambda: heard.append(set(trace.wanted)))
    trace.want("a")
    trace.want("b")
    trace.want("a", False)
    assert heard == [{"a"}, {"a", "b"}, {"b"}]


def test_emitted_event_is_recorded_whether_wanted_or_not():
    trace, heard = made(), []
    trace.listen(heard.append)
    trace.emit("plain", number=1)
    trace.want("plain", False)
    trace.emit("plain", number=2)
    assert [event.facts["number"] for event in trace.events] == [1, 2]
    assert heard == list(trace.events)
