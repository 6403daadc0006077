"""The file with what was recorded, and how two recordings differ, for a person."""

import difflib
import json
import re
from pathlib import Path

import zstandard

FILE = Path(__file__).parent / "recorded.json.zst"
MAX_FILE_BYTES = 200_000
MAX_DIFF_LINES = 60
MAX_DIFF_LINES_A_TITLE = 12
MAX_LINE_CHARACTERS = 400

Recording = dict[str, str]


def write(recording: Recording) -> None:
    """Titles are grouped by what was asked for, since a document compresses best beside its earlier self."""
    grouped = dict(sorted(recording.items(), key=lambda item: item[0].rpartition(": ")[2]))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        22, window_log=24, enable_ldm=True, write_content_size=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    data = compressor.compress(json.dumps(grouped, ensure_ascii=False, indent=0).encode())
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"the recording has {len(data)} bytes, more than {MAX_FILE_BYTES}; make the contest smaller")
    FILE.write_bytes(data)


def read() -> Recording:
    data = zstandard.ZstdDecompressor(max_window_size=2**24).decompress(FILE.read_bytes())
    recording: Recording = json.loads(data)
    return recording


def difference(recorded: Recording, received: Recording) -> str:
    """Every title that differs, and how the first few do; empty if nothing differs."""
    titles = {**received, **recorded}
    wrong = [title for title in titles if recorded.get(title) != received.get(title)]
    lines = [f"{len(wrong)} of {len(titles)} texts differ" for _ in wrong[:1]]
    for title in wrong:
        if len(lines) > MAX_DIFF_LINES:
            lines.append(f"… {title}")
            continue
        before, after = _lines(recorded.get(title)), _lines(received.get(title))
        changed = list(difflib.unified_diff(before, after, "recorded", "received", n=1, lineterm=""))
        lines += [f"--- {title}", *(line[:MAX_LINE_CHARACTERS] for line in changed[2:MAX_DIFF_LINES_A_TITLE])]
        if len(changed) > MAX_DIFF_LINES_A_TITLE:
            lines.append(f"… {len(changed) - MAX_DIFF_LINES_A_TITLE} more lines")
    return "\n".join(lines)


def _lines(text: str | None) -> list[str]:
    """A line for each entry of a JSON array. None of the bytes is lost: joined, the lines are the text."""
    if text is None:
        return []
    return [repr(line)[1:-1] for line in re.split(r"(?<=[}\]],)(?=[{\[])|(?<=\n)", text)]
