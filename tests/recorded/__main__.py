"""`python -m tests.recorded`: record anew, on purpose, from the first store; the other stores are compared with it.

Prints how the new recording differs from the one before.
"""

import os
import sys
from pathlib import Path

import pytest

from tests.recorded import recording
from tests.recorded.test_recorded import ANEW, STORES

if __name__ == "__main__":
    before = recording.read() if recording.FILE.exists() else {}
    os.environ[ANEW] = next(iter(STORES))
    code = pytest.main(["-q", "-p", "no:randomly", "-n", "0", str(Path(__file__).parent)])
    sys.stdout.write((recording.difference(before, recording.read()) or "nothing differs") + "\n")
    sys.exit(code)
