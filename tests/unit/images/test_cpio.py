"""The archive is what the kernel's unpacker expects."""

import io
import stat

from images import cpio
from images.cpio import Tree

HEADER = 110
"""Bytes of a newc header: the magic and thirteen fields of eight digits."""


def written(tree: Tree) -> bytes:
    output = io.BytesIO()
    tree.write(output)
    return output.getvalue()


def parsed(archive: bytes) -> list[tuple[str, list[int], bytes]]:
    """(name, fields, content) of each entry: a reader that shares nothing with the writer."""
    entries, at = [], 0
    while at < len(archive):
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + HEADER + fields[11]
        name = archive[at + HEADER : name_end]
        assert name[-1:] == b"\0"
        start = (name_end + 3) & ~3
        entries.append((name[:-1].decode(), fields, archive[start : start + fields[6]]))
        at = (start + fields[6] + 3) & ~3
    assert at == len(archive)
    return entries


def test_tree_with_each_kind_of_entry_is_read_back():
    tree = Tree()
    tree.add("init", cpio.file(b"#!/bin/sh\n", 0o755))
    tree.add("bin", cpio.link("usr/bin"))
    tree.add("dev/console", cpio.character(5, 1))
    entries = {name: (fields, content) for name, fields, content in parsed(written(tree))}
    assert list(entries) == ["bin", "dev", "dev/console", "init", "TRAILER!!!"]
    assert entries["init"][0][1] == stat.S_IFREG | 0o755
    assert entries["init"][1] == b"#!/bin/sh\n"
    assert stat.S_ISLNK(entries["bin"][0][1])
    assert entries["bin"][1] == b"usr/bin"
    assert stat.S_ISDIR(entries["dev"][0][1])
    assert stat.S_ISCHR(entries["dev/console"][0][1])
    assert entries["dev/console"][0][9:11] == [5, 1]


def test_tree_in_any_order_of_adding_is_the_same_bytes():
    one, other = Tree(), Tree()
    for name in ("a/b/c", "a/d", "z"):
        one.add(name, cpio.file(name.encode()))
    for name in ("z", "a/d", "a/b/c"):
        other.add(f"/{name}", cpio.file(name.encode()))
    assert written(one) == written(other)


def test_tree_has_no_owner_and_no_time():
    tree = Tree()
    tree.add("file", cpio.file(b"x"))
    for _name, fields, _content in parsed(written(tree)):
        assert fields[2:4] == [0, 0]
        assert fields[5] == 0


def test_tree_with_a_path_added_twice_keeps_the_last():
    tree = Tree()
    tree.add("usr/bin/lspci", cpio.link("busybox"))
    tree.add("usr/bin/lspci", cpio.file(b"real"))
    assert [content for name, _, content in parsed(written(tree)) if "lspci" in name] == [b"real"]


def test_tree_keeps_the_mode_of_a_folder_that_was_added_by_itself():
    tree = Tree()
    tree.add("tmp", cpio.folder(0o1777))
    tree.add("tmp/file", cpio.file(b""))
    assert parsed(written(tree))[0][1][1] == stat.S_IFDIR | 0o1777


def test_inodes_of_files_differ():
    tree = Tree()
    for name in "abc":
        tree.add(name, cpio.file(b""))
    inodes = [fields[0] for _, fields, _ in parsed(written(tree))[:-1]]
    assert len(set(inodes)) == len(inodes)
