"""Installs Debian's browser, PostgreSQL server, Java and the like where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess

from benchmarks import postgres


class PackageError(Exception):
    """Packages are missing and cannot be installed; the sentence says what to do."""


def missing() -> list[str]:
    """Names of the packages whose programs are not on this machine."""
    there = {
        "chromium": shutil.which("chromium"),
        "chromium-driver": shutil.which("chromedriver"),
        "curl": shutil.which("curl"),
        # code-server's module for Kerberos is compiled; without it VS Code does not start.
        "libkrb5-dev": shutil.which("krb5-config"),
        "default-jre-headless": shutil.which("java"),
        "postgresql": postgres.find(),
    }
    return [name for name, found in there.items() if found is None]


def install_packages() -> list[str]:
    """Install what is missing; needs root only then.

    Raises:
        PackageError: nobody may, or it did not work.
    """
    names = missing()
    if not names:
        return []
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *names]
    if os.geteuid() != 0:
        raise PackageError(f"needs, as root: {' '.join(command)}")
    # The package would start a server of its own; tests start theirs.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for step in (["apt-get", "--quiet", "update"], command):
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PackageError(f"{' '.join(step)} failed:\n{done.stderr[-2000:]}")
    if still := missing():
        raise PackageError(f"installed, and yet missing: {', '.join(still)}")
    return names
