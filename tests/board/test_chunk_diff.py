"""What is not in a run is the same in both versions, and a run is no longer than it must be."""

from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.render.chunk_diff import Run, differing
from scoreboardd.render.chunked_document import DIGEST_BYTES
from tests.documents import document_of


def runs(before: str, after: str) -> list[Run]:
    """Of versions with a piece for each letter."""
    old, new = (b"".join(letter.encode().rjust(DIGEST_BYTES) for letter in version) for version in (before, after))
    return list(differing(old, new))


@given(before=st.text("abc", max_size=8), after=st.text("abc", max_size=8))
def test_to_replace_the_runs_makes_the_one_of_the_other(before: str, after: str):
    made, kept = "", 0
    for start, end, first, last in runs(before, after):
        assert kept <= start <= end
        assert before[start:end] != after[first:last]
        made += before[kept:start] + after[first:last]
        kept = end
    assert made + before[kept:] == after


def test_what_differs_is_a_run_each():
    assert runs("abcdefgh", "abcdefgh") == []
    assert runs("abcdefgh", "aXcdeYZh") == [(1, 2, 1, 2), (5, 7, 5, 7)]
    assert runs("abcdefgh", "abXcdefh") == [(2, 2, 2, 3), (6, 7, 7, 7)]
    assert runs("abc", "") == [(0, 3, 0, 0)]
    assert runs("", "abc") == [(0, 0, 0, 3)]


def test_of_a_document_every_piece_counts():
    before, after = (document_of(b"[", b"1,", text, b"]").segment_digests for text in (b"2", b"3"))
    assert list(differing(before, after)) == [(2, 3, 2, 3)]
    for number in range(4):
        texts = [b"[", b"1,", b"2", b"]"]
        texts[number] = b"X"
        assert list(differing(before, document_of(*texts).segment_digests)) == [(number, number + 1) * 2]
