"""Configuration: one TOML file, overridden by the environment, checked as a whole before anything starts.

Rules:
- A value is the first of: `SCOREBOARDD_<SECTION>__<KEY>`, the file, for a secret its `_file` or its systemd
  credential, the default. A key that stands at its default counts as not set.
- TOML has types, so its values must have the right one; the environment has text, which is converted.
- Every problem is found in one run, one line each: where it is, what it is, how to mend it.
- No value is repeated in a problem (it may be a secret in the wrong place), and no secret is in a `repr`.
- `load` depends on its arguments and the files they name, and on nothing else.
"""

from scoreboardd.config.loading import CREDENTIALS, DEFAULT_PATH, KEYS, ConfigError, load
from scoreboardd.config.schema import Settings

__all__ = ["CREDENTIALS", "DEFAULT_PATH", "KEYS", "ConfigError", "Settings", "load"]
