"""Every version reads as it was packed, whatever was packed after it, and costs what it changes."""

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoreboardd.builder import incremental_writer as module
from scoreboardd.builder.incremental_writer import IncrementalWriter
from scoreboardd.render.chunked_document import Document
from tests.documents import document_of
from tests.snapshots import joined, received

Version = dict[str, list[bytes]]
"The texts of each document's pieces, by its name."


def documents(version: Version) -> dict[str, Document]:
    return {name: document_of(*texts) for name, texts in version.items()}


def frames(version: dict[str, Document]) -> dict[str, bytes]:
    return {name: b"".join(document.frames()) for name, document in version.items()}


texts = st.lists(st.binary(max_size=40), min_size=1, max_size=8)


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    """Each version mostly the one before with a few stretches changed; documents come and go."""
    versions: list[Version] = [draw(st.dictionaries(st.sampled_from("abc"), texts))]
    for _ in range(draw(st.integers(1, 8))):
        version = {name: list(texts) for name, texts in versions[-1].items()}
        for name in draw(st.sets(st.sampled_from("abc"))):
            if name not in version or draw(st.integers(0, 5)) == 5:
                version[name] = draw(texts)
            elif draw(st.integers(0, 5)) == 5:
                del version[name]
            else:
                start = draw(st.integers(0, len(version[name])))
                end = draw(st.integers(start, min(start + 2, len(version[name]))))
                version[name][start:end] = draw(st.lists(st.binary(max_size=40), max_size=2))
                version[name] = version[name] or [b"{}"]
        versions.append(version)
    return versions


@given(history=histories(), most=st.sampled_from((1, 2, 100)))
def test_after_any_history_every_version_reads_as_it_was_packed(history: list[Version], most: int):
    with pytest.MonkeyPatch.context() as constants:
        constants.setattr(module, "MAX_GARBAGE_RATIO", most)
        writer = IncrementalWriter()
        kept = [(received(*writer.pack(version)), frames(version)) for version in map(documents, history)]
    for mapped, expected in kept:
        assert joined(mapped) == expected
        assert list(mapped) == list(expected)


LARGE = [random.Random(extent).randbytes(999) for extent in range(200)]
"Of a document of two hundred pieces."


def changed(*extents: int, by: bytes = b"X") -> Version:
    return {"a": [by if extent in extents else text for extent, text in enumerate(LARGE)], "b": [b"[", b"]"]}


class TestAVersion:
    def test_takes_what_is_new_in_it(self):
        writer = IncrementalWriter()
        memfd, _ = writer.pack(documents(changed()))
        sizes = [memfd.size]
        for version in (changed(), changed(7), changed(7, 100), changed(7, 100)):
            assert writer.pack(documents(version))[0] is memfd
            sizes.append(memfd.size)
        segment = document_of(b"X").opening
        # The index of a document says where its stretches are, 16 bytes each.
        assert [after - before for before, after in pairwise(sizes)] == [
            0,
            len(segment.frame) + 3 * 16,
            len(segment.frame) + 5 * 16,
            0,
        ]

    def test_needs_no_other_to_have_been_received(self):
        writer = IncrementalWriter()
        writer.pack(documents(changed()))
        writer.pack(documents(changed(7)))
        assert joined(received(*writer.pack(documents(changed(7, 8))))) == frames(documents(changed(7, 8)))

    def test_that_could_not_be_written_is_no_loss_to_the_next(self):
        writer = IncrementalWriter()
        memfd, manifest = writer.pack(documents(changed()))
        first = received(memfd, manifest)
        with no_file_longer_than(memfd.size + 1), pytest.raises(OSError, match="no room"):
            writer.pack(documents(changed(7, by=b"longer than a byte")))
        for version in (changed(), changed(8), changed(9)):
            assert joined(received(*writer.pack(documents(version)))) == frames(documents(version))
        assert joined(first) == frames(documents(changed()))


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestALog:
    def test_is_replaced_before_most_of_it_is_of_the_past(self):
        writer, chance = IncrementalWriter(), random.Random(0.5)
        sizes = []
        for number in range(1000):
            memfd, _ = writer.pack(documents(changed(number % 200, by=chance.randbytes(999))))
            sizes.append(memfd.size)
        live = sum(map(len, frames(documents(changed())).values()))
        assert max(sizes) < 2.2 * live
        assert 2 < sum(after < before for before, after in pairwise(sizes)) < 100
