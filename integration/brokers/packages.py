"""Packages of the distribution, installed where that is permitted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from integration.brokers.processes import run, say, succeeds
from integration.brokers.services import NotHereError

# Without a policy, a server's package would start and enable a node of the system's own.
INSTALL = """
set -e
policy=/usr/sbin/policy-rc.d
[ ! -e $policy ] || mv $policy $policy.saved
trap 'rm -f $policy; [ ! -e $policy.saved ] || mv $policy.saved $policy' EXIT
printf '#!/bin/sh\\nexit 101\\n' >$policy && chmod 755 $policy
export DEBIAN_FRONTEND=noninteractive
get="apt-get -qq -o DPkg::Lock::Timeout=300"
$get update
$get install --yes --no-install-recommends "$1" >/dev/null
! command -v systemctl >/dev/null || systemctl --quiet disable "$1" || true
"""


def provide(package: str, find: Callable[[], str]) -> str:
    """Return the program that `find` finds, its package installed first when it is missing.

    A server's package and its service have one name; its node of the system's own is not started.
    """
    found = find() or (find() if install(package) else "")
    if not found:
        raise NotHereError("not found", f"install {package}")
    return found


def install(package: str) -> bool:
    """Install a package of the distribution; return whether that is possible here at all."""
    become_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not shutil.which("apt-get") or not succeeds(*become_root, "true"):
        return False
    say(f"{package}: installing the distribution's package")
    failure = f"{package}: the package could not be installed"
    run(*become_root, "sh", "-c", INSTALL, "install", package, failure=failure)
    return True
