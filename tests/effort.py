"""How much the tests that draw their examples try: `EFFORT=5 make test` is five times as thorough as the default."""

import os

EFFORT = int(os.environ.get("EFFORT", "1"))


def examples(number: int) -> int:
    """Examples, or seeds, for a test that runs `number` of them by default."""
    return number * EFFORT
