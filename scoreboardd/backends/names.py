"""What a cluster's keys and channels are called (protocol §4), with its prefix in front."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    prefix: str

    @property
    def lock(self) -> str:
        return f"{self.prefix}leaderboard:rebuild:lock"

    @property
    def version(self) -> str:
        return f"{self.prefix}scoreboard:version"

    @property
    def fence(self) -> str:
        return f"{self.prefix}scoreboard:fence"

    @property
    def metadata(self) -> str:
        return f"{self.prefix}scoreboard:metadata"

    def document(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def previous(self, name: str) -> str:
        """What a document was before the last commit."""
        return f"{self.prefix}scoreboard:previous:{name}"

    def staged(self, token: str, name: str) -> str:
        return f"{self.prefix}scoreboard:staged:{token}:{name}"

    def channel(self, name: str) -> str:
        return f"{self.prefix}{name}"
