"""Programs of Debian's: the ones that are installed, else unpacked into a cache folder, with nothing installed.

Unpacking needs no root, starts no service of the system's and leaves the system as it was.  What the dependencies bring
is unpacked beside, and found by ``LD_LIBRARY_PATH``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SYSTEM = Path("/")
LEFT_OUT = ("libllvm",)
"""Beginnings of packages that are large, and loaded only for what no test does: PostgreSQL's compiler."""


class CannotBeHad(Exception):
    """A program is not installed, and could not be unpacked; says why."""


def cache() -> Path:
    """Where packages are unpacked: a folder that whoever runs the server can read, so for root not in its home."""
    if os.getuid() == 0:
        return Path("/var/cache/hybridexec-compatibility")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybridexec-compatibility"


def program(name: str, package: str, places: str = "usr/bin") -> tuple[Path, dict[str, str]]:
    """A program, and the variables of the environment that it needs.

    Args:
        name: the program's file name.
        package: the Debian package that has it.
        places: the folder that it is in below the root, as a pattern; of several the last one is taken.

    Returns:
        Its path, and variables to be set for it.

    Raises:
        CannotBeHad: it is not installed, and apt cannot bring it.
    """
    found = _find(SYSTEM, name, places)
    if found:
        return found, {}
    root = cache() / package
    if not root.exists():
        _unpack(package, root)
    found = _find(root, name, places)
    if not found:
        raise CannotBeHad(f"Debian's {package} has no {places}/{name}")
    folders = sorted({str(library.parent) for library in root.glob("usr/lib/*/*.so*")})
    return found, {"LD_LIBRARY_PATH": ":".join(folders)}


def _find(root: Path, name: str, places: str) -> Path | None:
    return max((found for found in root.glob(f"{places}/{name}") if os.access(found, os.X_OK)), default=None)


def _unpack(package: str, root: Path) -> None:
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            raise CannotBeHad(f"{package} is not installed, and there is no {tool} to unpack it")
    work = root.with_name(f"{package}.{os.getpid()}")
    downloads, unpacked = work / "downloads", work / "root"
    for folder in (downloads, unpacked, work / "lists" / "partial", work / "archives" / "partial"):
        folder.mkdir(parents=True)
    # apt's own folders are root's; these ones begin empty, and what is installed is still known to it.
    apt = ["apt-get", "-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}", "-o", "APT::Sandbox::User="]
    try:
        _run([*apt, "--quiet", "update"], work)
        told = _run([*apt, "--simulate", "--no-install-recommends", "install", package], work)
        wanted = [line.split()[1] for line in told.splitlines() if line.startswith("Inst ")]
        wanted = [name for name in wanted if name == package or not name.startswith(LEFT_OUT)]
        _run([*apt, "--quiet", "download", *wanted], downloads)
        for archive in sorted(downloads.glob("*.deb")):
            _run(["dpkg", "--extract", str(archive), str(unpacked)], work)
        if not root.exists():
            unpacked.rename(root)
    finally:
        shutil.rmtree(work)


def _run(command: list[str], where: Path) -> str:
    done = subprocess.run(
        command, cwd=where, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CannotBeHad(f"{command[0]} ended with {done.returncode}: {said[-1] if said else ''}")
    return done.stdout
