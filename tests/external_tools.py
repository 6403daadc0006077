"""Programs that some tests run and pip cannot install."""

import os
import shutil
from pathlib import Path

import pytest

DEBIAN_PACKAGES = {
    "mariadbd": "mariadb-server",
    "node": "nodejs",
    "openssl": "openssl",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
}
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require(command: str) -> Path:
    """The path of `command`. Without it the test is skipped, but fails under CI, which has every part."""
    found = shutil.which(command, path=SEARCH_PATH)
    if found is None:
        reason = f"{command} is not here; apt-get install {DEBIAN_PACKAGES.get(command, command)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)
