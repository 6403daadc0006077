"""Configuration: one TOML file, overridden by the environment, checked as a whole before anything starts.

Rules:
- A value comes from the first of these that sets it: the variable `SCOREBOARDD_<SECTION>__<KEY>`, the file, for a
  secret its `_file` key or its systemd credential, the default. A key that is set to its default counts as not set.
- Values in TOML must have the right type. Values in the environment are text and are converted.
- One run finds every problem. Each problem is one line: where it is, what it is, how to fix it.
- A problem never repeats a value (it may be a secret in the wrong place), but may name a file that the value names. No
  `repr` contains a secret.
- `load` depends only on its arguments and the files that they name.
"""

from scoreboardd.config.loading import CREDENTIALS, DEFAULT_PATH, KEYS, ConfigError, load
from scoreboardd.config.schema import Settings

__all__ = ["CREDENTIALS", "DEFAULT_PATH", "KEYS", "ConfigError", "Settings", "load"]
