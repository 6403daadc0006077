"""The command `scoreboardd`."""

import sys


def main() -> None:
    try:
        from scoreboardd.cli import main as command  # noqa: PLC0415  it needs the extra `server`
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("scoreboardd"):
            raise
        sys.exit(f"the daemon needs {error.name}, which is not installed: pip install 'scoreboardd[server]'")
    command()


if __name__ == "__main__":
    main()
