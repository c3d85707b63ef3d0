"""The caches are bounded, and forget exactly what a command names."""

import pytest

from mdevemu.iommu.caches import BARE, HOST, DirectoryCache, Iotlb, Line, tag_of


def page(iova: int, shift: int = 12, *, everywhere: bool = False, first: int = 0) -> Line:
    """A line of ``1 << shift`` bytes; its first-stage page has ``1 << first`` or as many."""
    wide = 1 << max(shift, first)
    low = iova & -wide
    return Line(iova, iova + (1 << shift), 0, 7, 0, everywhere, low, low + wide, 0)


def filled(**lines: list[tuple[int, int]]) -> Iotlb:
    """Spaces ``p1`` (host process 1), ``g2p1`` (of guest 2) with (Iova, shift) pairs."""
    iotlb = Iotlb()
    for name, pages in lines.items():
        guest, _, process = name.rpartition("p")
        tag = tag_of(int(guest[1:]) if guest else HOST, int(process) if process else BARE)
        for iova, shift in pages:
            iotlb.fill(tag, shift, page(iova, shift))
    return iotlb


def left(iotlb: Iotlb) -> set[tuple[int, int]]:
    """(tag, first Iova) of every line."""
    return {
        (tag, line.low) for tag, lines in iotlb.by_tag.items() for line in lines.by_page.values()
    }


def test_tags_are_different_for_every_pair_of_ids():
    ids = [HOST, 0, 1, 0xFFFF]
    processes = [BARE, 0, 1, 0xFFFFF]
    assert len({tag_of(g, p) for g in ids for p in processes}) == 16


def test_invalidation_of_a_page_leaves_its_neighbours_and_other_processes():
    iotlb = filled(p1=[(0x1000, 12), (0x2000, 12)], p2=[(0x1000, 12)], g0p1=[(0x1000, 12)])
    iotlb.invalidate_first(HOST, 1, 0x1000, 0x2000)
    assert left(iotlb) == {
        (tag_of(HOST, 1), 0x2000),
        (tag_of(HOST, 2), 0x1000),
        (tag_of(0, 1), 0x1000),
    }


def test_invalidation_of_a_page_takes_the_superpage_around_it():
    iotlb = filled(p1=[(0x20_0000, 21), (0x4000_0000, 30), (0x40_0000, 21)])
    iotlb.invalidate_first(HOST, 1, 0x20_5000, 0x20_6000)
    iotlb.invalidate_first(HOST, 1, 0x4000_1000, 0x4000_2000)
    assert left(iotlb) == {(tag_of(HOST, 1), 0x40_0000)}


def test_invalidation_of_a_range_takes_every_page_in_it():
    iotlb = filled(p1=[(0x1000, 12), (0x3000, 12), (0x4000, 12)])
    iotlb.invalidate_first(HOST, 1, 0x0, 0x4000)
    assert left(iotlb) == {(tag_of(HOST, 1), 0x4000)}


def test_invalidation_of_a_first_stage_page_takes_every_fragment_of_it():
    iotlb = Iotlb()
    for iova in (0x20_0000, 0x20_1000, 0x3F_F000, 0x40_0000):
        iotlb.fill(tag_of(3, 1), 12, page(iova, 12, first=21))
    iotlb.invalidate_first(3, 1, 0x20_8000, 0x20_9000)
    assert left(iotlb) == {(tag_of(3, 1), 0x40_0000)}


@pytest.mark.parametrize("high", [0x2000, 1 << 64])
def test_global_line_goes_only_when_no_process_is_named(high):
    iotlb = Iotlb()
    iotlb.fill(tag_of(HOST, 1), 12, page(0x1000, everywhere=True))
    low = 0 if high == 1 << 64 else 0x1000
    iotlb.invalidate_first(HOST, 1, low, high)
    assert len(iotlb) == 1
    iotlb.invalidate_first(HOST, None, low, high)
    assert len(iotlb) == 0


def test_invalidation_of_a_guest_leaves_host_and_other_guests():
    iotlb = filled(p1=[(0, 12)], g1p1=[(0, 12)], g1p=[(0, 12)], g2p1=[(0, 12)])
    iotlb.invalidate_second(1)
    assert left(iotlb) == {(tag_of(HOST, 1), 0), (tag_of(2, 1), 0)}
    iotlb.invalidate_second(None)
    assert left(iotlb) == {(tag_of(HOST, 1), 0)}


def test_iotlb_is_bounded_in_spaces_and_lines():
    iotlb = Iotlb(spaces=3, lines=4)
    for process in range(10):
        for number in range(10):
            iotlb.fill(tag_of(HOST, process), 12, page(number << 12))
    assert len(iotlb.by_tag) == 3
    assert len(iotlb) == 12
    newest = iotlb.by_tag[tag_of(HOST, 9)]
    assert sorted(line.low >> 12 for line in newest.by_page.values()) == [6, 7, 8, 9]


def test_filling_again_replaces_and_evicts_nothing():
    iotlb = Iotlb(spaces=1, lines=2)
    for iova in (0x1000, 0x2000, 0x2000, 0x2000):
        iotlb.fill(tag_of(HOST, 1), 12, page(iova))
    assert {at for _, at in left(iotlb)} == {0x1000, 0x2000}


def test_directory_cache_is_bounded_and_drops_what_matches():
    cache: DirectoryCache[str] = DirectoryCache(3)
    for key in range(5):
        cache.fill(key, str(key))
    assert list(cache.entries) == [2, 3, 4]
    cache.drop(lambda key: key == 3)
    assert list(cache.entries) == [2, 4]
    cache.drop()
    assert not cache.entries
