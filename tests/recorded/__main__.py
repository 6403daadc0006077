"""`python -m tests.recorded`: record anew, on purpose, from the first store; the other stores are compared with it."""

import os
import sys
from pathlib import Path

import pytest

from tests.recorded.test_recorded import ANEW, STORES

if __name__ == "__main__":
    os.environ[ANEW] = next(iter(STORES))
    sys.exit(pytest.main(["-q", "-p", "no:randomly", "-n", "0", str(Path(__file__).parent)]))
