"""Package names to verified archives: apt with a state of its own, without root.

The machine's configuration of apt (proxies, certificates, passwords, methods) stays in force;
what is replaced is its state, its sources and its hooks.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from images import mirror
from images.errors import HostError
from images.progress import Progress
from images.recipe import Suite

KEYRINGS = Path("/usr/share/keyrings")
KEYRING = "debian-archive-keyring"

CONFIGURATION = """\
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::State::extended_states "{state}/extended_states";
Dir::Cache "{state}";
Dir::Cache::archives "{state}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{state}/log";
Dir::Etc::preferences "{state}/preferences";
Dir::Etc::preferencesparts "{state}/empty";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
APT::Get::AllowUnauthenticated "false";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
"""
"""Everything that apt keeps, in a folder of ours; nothing unsigned; nobody else's hooks."""

SOURCES = """\
Dir::Etc::sourcelist "{state}/sources.list";
Dir::Etc::sourceparts "{state}/empty";
"""

AS_ROOT = 'APT::Sandbox::User "root";\n'
"""apt run by root would hand the download to a user who cannot enter root's cache folder."""

ASSUMED = """\
Package: {name}
Status: install ok installed
Priority: optional
Section: misc
Maintainer: nobody <nobody@localhost>
Architecture: amd64
Multi-Arch: foreign
Version: 9999:0
Description: assumed, never run from a private root
"""


class Apt:
    """apt-get with its state in one folder."""

    def __init__(self, state: Path, assumed: dict[str, str], sources: str | None) -> None:
        """Make the state in ``state`` unless it is there.

        Args:
            state: our folder; archives that an interrupted run left in it are used.
            assumed: packages that need not be fetched, and what each provides.
            sources: content of sources.list, or None for the machine's own.
        """
        for name in ("lists/partial", "archives/partial", "log", "empty"):
            (state / name).mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION
        if sources is not None:
            text += SOURCES
            (state / "sources.list").write_text(sources)
        if os.geteuid() == 0:
            text += AS_ROOT
        (state / "preferences").write_text("")
        (state / "apt.conf").write_text(text.format(state=state))
        (state / "status").write_text(
            "".join(
                ASSUMED.format(name=name) + (f"Provides: {what}\n\n" if what else "\n")
                for name, what in assumed.items()
            )
        )
        self._state = state

    @property
    def archives(self) -> Path:
        """The folder of the fetched archives; also of some that an interrupted run left."""
        return self._state / "archives"

    def resolve(self, names: Sequence[str], progress: Progress) -> list[str]:
        """File names of the archives of ``names`` and of all that they need, sorted.

        Raises:
            HostError: there is no solution.
        """
        self.run("install", "--simulate", *names, progress=progress)
        lines = (self._state / "log" / "output").read_text().splitlines()
        found = [re.match(r"Inst (\S+) \((\S+) .*\[(\S+)\]\)", line) for line in lines]
        chosen = [match.groups() for match in found if match]
        return sorted(
            f"{name.partition(':')[0]}_{version.replace(':', '%3a')}_{architecture}.deb"
            for name, version, architecture in chosen
        )

    def prefer(self, suite: str, sources: Sequence[str]) -> None:
        """Take the binary packages of these source packages from ``suite``."""
        names = " ".join(f"src:{name}" for name in sources)
        with (self._state / "preferences").open("a") as preferences:
            preferences.write(f"Package: {names}\nPin: release n={suite}\nPin-Priority: 990\n\n")

    def run(self, *arguments: str, progress: Progress, folder: Path | None = None) -> None:
        """Run apt-get, and tell ``progress`` how much of the transfer is done.

        Raises:
            HostError: it failed; archives that are whole stay.
        """
        reading, writing = os.pipe()
        command = ["apt-get", "-q", "-c", str(self._state / "apt.conf")]
        command += ["-o", f"APT::Status-Fd={writing}", *arguments]
        log = self._state / "log" / "output"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    cwd=folder or self._state,
                    env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
                )
        except OSError as error:
            os.close(reading)
            raise HostError("apt-get does not run", "use a Debian machine (12 or newer)") from error
        finally:
            os.close(writing)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
            try:
                for line in lines:
                    kind, _, rest = line.partition(":")
                    fields = rest.strip().split(":", 2)
                    if kind == "dlstatus" and len(fields) == 3:
                        progress.advance(float(fields[1]) / 100, fields[2])
            except BaseException:
                process.terminate()
                raise
            finally:
                status = process.wait()
        if status:
            raise HostError(
                f"apt-get {arguments[0]} failed with exit status {status}",
                "look at its last lines below; it used this machine's mirror and proxies",
                "\n".join(log.read_text(errors="replace").strip().splitlines()[-12:]),
            )


def fetch(
    state: Path,
    suites: Sequence[Suite],
    names: Sequence[str],
    assumed: dict[str, str],
    progress: Progress,
    purpose: str,
) -> list[Path]:
    """Fetch ``names`` and all that they depend on from this machine's Debian mirror.

    Args:
        state: a folder for apt's state; the archives stay in it.
        suites: where to look, each with the source packages to take from it by preference.
        names: package names.
        assumed: packages that are not wanted, and what each provides.
        purpose: what they are for, for ``progress``.

    Returns:
        The archives, each verified against Debian's keys.

    Raises:
        HostError: no mirror, no key, no network, no such package.
    """
    uri = mirror.configured()
    keys = keyring(state, suites[0].name, progress)
    lines = "".join(
        f"deb [arch=amd64 signed-by={keys}] {uri} {suite.name} main\n" for suite in suites
    )
    apt = Apt(state, assumed, lines)
    for suite in suites:
        if suite.preferred:
            apt.prefer(suite.name, suite.preferred)
    wanted = ", ".join(suite.name for suite in suites)
    progress.phase(f"package lists of {wanted} from {mirror.printable(uri)}")
    apt.run("update", progress=progress)
    progress.phase(f"packages of {purpose}")
    chosen = apt.resolve(names, progress)
    apt.run("install", "--download-only", *names, progress=progress)
    return [apt.archives / name for name in chosen]


def keyring(state: Path, suite: str, progress: Progress, installed: Path = KEYRINGS) -> Path:
    """A keyring with the key of Debian's suite ``suite``.

    A machine that was installed before the suite's key was made may not have it.  The
    package that brings it is then fetched from the machine's own, trusted, sources.

    Raises:
        HostError: not even those have it.
    """
    place = _holding(installed, suite)
    if place is not None:
        return place
    folder = state / "keyring"
    place = _holding(folder / "root" / str(KEYRINGS).lstrip("/"), suite)
    if place is not None:
        return place
    progress.phase(f"signing key of {suite} (the installed {KEYRING} is older)")
    apt = Apt(folder, {}, None)
    apt.run("update", progress=progress)
    apt.run("download", KEYRING, progress=progress, folder=apt.archives)
    for archive in apt.archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "root")], check=True)
    place = _holding(folder / "root" / str(KEYRINGS).lstrip("/"), suite)
    if place is None:
        raise HostError(
            f"the package {KEYRING} of this machine's sources has no key of {suite}",
            f"apt-get update && apt-get install {KEYRING}",
        )
    return place


def _holding(folder: Path, suite: str) -> Path | None:
    """The keyring in ``folder``, if the package that it came with knew ``suite``."""
    for ending in ("pgp", "gpg"):
        whole = folder / f"{KEYRING}.{ending}"
        if whole.exists() and (folder / f"debian-archive-{suite}-automatic.{ending}").exists():
            return whole
    return None
