"""Which mirror a machine is configured to use."""

from pathlib import Path

import pytest

from images import mirror
from images.mirror import Source

SOURCES = """\
# made by the installer
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
  non-free-firmware
# a comment inside
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main
"""

LIST = """\
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/a b.gpg] https://mirror.example/debian bookworm main contrib # near
deb-src https://mirror.example/debian bookworm main
deb http://flat.example ./
"""


def test_deb822_with_two_stanzas_gives_both_with_continued_fields():
    assert list(mirror.deb822(SOURCES)) == [
        Source(
            "http://mirror.example/debian",
            ("trixie", "trixie-updates"),
            ("main", "non-free-firmware"),
        ),
        Source("http://mirror.example/debian-security", ("trixie-security",), ("main",)),
    ]


def test_deb822_with_several_uris_gives_a_source_for_each():
    text = "Types: deb\nURIs: http://a/debian http://b/debian\nSuites: sid\nComponents: main\n"
    assert [source.uri for source in mirror.deb822(text)] == ["http://a/debian", "http://b/debian"]


@pytest.mark.parametrize("answer", ["no", "No", "false"])
def test_deb822_with_a_disabled_stanza_leaves_it_out(answer: str):
    text = SOURCES.replace("Types: deb\n", f"Enabled: {answer}\nTypes: deb\n")
    assert [source.uri for source in mirror.deb822(text)] == ["http://mirror.example/debian"]


def test_deb822_with_sources_only_gives_nothing():
    assert (
        list(mirror.deb822("Types: deb-src\nURIs: http://a\nSuites: sid\nComponents: main")) == []
    )


def test_one_line_with_options_and_comments_gives_binary_sources_only():
    assert list(mirror.one_line(LIST)) == [
        Source("https://mirror.example/debian", ("bookworm",), ("main", "contrib")),
        Source("http://flat.example", ("./",), ()),
    ]


def test_choose_skips_what_is_not_the_main_archive():
    wanted = Source("http://debian.example/debian", ("bookworm",), ("main",))
    others = [
        Source("https://packages.example/apt", ("cloud-sdk-bookworm",), ("main",)),
        Source("http://debian.example/debian-security", ("bookworm-security",), ("main",)),
        Source("https://deb.example/node", ("nodistro",), ("main",)),
        Source("https://docker.example/debian", ("bookworm",), ("stable",)),
        Source("cdrom:[Debian 12]", ("bookworm",), ("main",)),
    ]
    assert mirror.choose([*others, wanted]) == wanted.uri
    assert mirror.choose(others) is None


@pytest.mark.parametrize("uri", ["mirror+file:/etc/apt/mirrors", "file:/srv/debian", "ftp://a/d"])
def test_choose_takes_every_method_that_can_fetch_another_suite(uri):
    assert mirror.choose([Source(uri, ("stable",), ("main",))]) == uri


def test_read_takes_the_main_file_first_and_then_the_folder_by_name(tmp_path: Path):
    main, parts = tmp_path / "sources.list", tmp_path / "sources.list.d"
    parts.mkdir()
    main.write_text("deb http://one/debian sid main\n")
    (parts / "b.list").write_text("deb http://three/debian sid main\n")
    (parts / "a.sources").write_text(
        "Types: deb\nURIs: http://two/debian\nSuites: sid\nComponents: main\n"
    )
    (parts / "c.list.save").write_text("deb http://never/debian sid main\n")
    assert [source.uri for source in mirror.read(main, parts)] == [
        "http://one/debian",
        "http://two/debian",
        "http://three/debian",
    ]


def test_read_without_files_gives_nothing(tmp_path: Path):
    assert list(mirror.read(tmp_path / "none", tmp_path / "nowhere")) == []


def test_printable_uri_has_no_password():
    assert mirror.printable("https://me:secret@mirror.example/debian") == (
        "https://mirror.example/debian"
    )
    assert mirror.printable("file:/srv/debian") == "file:/srv/debian"
