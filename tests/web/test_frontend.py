"""The page as it is served: its parts, their headers, their size."""

import gzip
import json
import re
from pathlib import Path

import pytest
import zstandard

from scoreboardd.web.frontend import LIBRARY, PARTS
from tests.web.server import Node, serving

FOLDER = Path(__file__).parents[2] / "scoreboardd" / "frontend"
MOST = 60 * 1024
"Bytes that all of the page may take, compressed."


async def parts(node: Node) -> str:
    """Where the page finds its parts."""
    found = re.search(r'src="(page/[0-9a-f]{16})/main\.js"', (await node.ask("/")).body.decode())
    assert found
    return f"/{found[1]}"


async def test_all_of_it_is_small() -> None:
    async with serving() as node:
        folder = await parts(node)
        answers = [
            await node.ask(target, {"Accept-Encoding": "gzip"})
            for target in ("/", *(f"{folder}/{part}" for part in PARTS))
        ]
        assert all(answer.headers["content-encoding"] == "gzip" for answer in answers)
        assert sum(len(answer.body) for answer in answers) <= MOST


async def test_every_part_that_is_named_is_served() -> None:
    async with serving() as node:
        folder = await parts(node)
        named = {folder[1:] + "/" + part for part in PARTS}
        index = (await node.ask("/")).body.decode()
        assert set(re.findall(r'(?:src|href)="(page/[^"]+)"', index)) <= named
        for part in PARTS:
            answer = await node.ask(f"{folder}/{part}")
            assert answer.status == 200
            assert answer.body == (FOLDER / part).read_bytes()
            imported = re.findall(r'from "\./([^"]+)"', answer.body.decode())
            assert set(imported) <= set(PARTS)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("main.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
async def test_a_part_is_kept_for_ever_under_a_name_that_changes_with_it(part: str, kind: str) -> None:
    async with serving() as node:
        answer = await node.ask(f"{await parts(node)}/{part}")
        assert answer.headers["content-type"] == kind
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        other = await node.ask(f"/page/{'0' * 16}/{part}")
        assert (other.body, other.headers["cache-control"]) == (answer.body, "no-store")


async def test_nothing_else_is_to_be_had_from_the_folder() -> None:
    async with serving() as node:
        folder = await parts(node)
        for name in ("index.html", "package.json", "page.py", "..%2fpage.py", "%2e%2e/page.py"):
            assert (await node.ask(f"{folder}/{name}")).status == 404


@pytest.mark.parametrize("target", ["/", *(f"/{name}" for name in LIBRARY)])
async def test_what_has_a_fixed_name_is_asked_for_again_and_not_sent_again(target: str) -> None:
    async with serving() as node:
        answer = await node.ask(target)
        assert (answer.status, answer.headers["cache-control"]) == (200, "no-cache")
        again = await node.ask(target, {"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        head = await node.ask(target, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(answer.body)))


@pytest.mark.parametrize(("coding", "decode"), [("gzip", gzip.decompress), ("zstd", zstandard.decompress)])
async def test_it_comes_compressed(coding: str, decode: object) -> None:
    async with serving() as node:
        plain = await node.ask("/scoreboard.js")
        assert "content-encoding" not in plain.headers
        encode = await node.ask("/scoreboard.js", {"Accept-Encoding": coding})
        assert encode.headers["content-encoding"] == coding
        assert callable(decode)
        assert decode(encode.body) == plain.body


async def test_the_policy_allows_nothing_inline_and_nobody_else() -> None:
    async with serving() as node:
        for target in ("/", "/scoreboard.js", f"{await parts(node)}/worker.js"):
            headers = (await node.ask(target)).headers
            policy = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'"
            for kind in ("script-src", "style-src", "connect-src", "worker-src", "img-src"):
                assert policy[kind] == "'self'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"


async def test_others_may_import_the_module() -> None:
    async with serving(cors_origins=["https://ctf.example.org"]) as node:
        for name in LIBRARY:
            headers = (await node.ask(f"/{name}", {"Origin": "https://ctf.example.org"})).headers
            assert headers["access-control-allow-origin"] == "https://ctf.example.org"
            assert headers["cross-origin-resource-policy"] == "cross-origin"


def test_the_library_is_complete_and_its_header_names_the_files_to_copy() -> None:
    modules = {name for name in LIBRARY if name.endswith(".js")}
    texts = {name: (FOLDER / name).read_text() for name in modules}
    imported = {name for text in texts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert imported | {"scoreboard.js"} == modules
    header = texts["scoreboard.js"].split("*/")[0]
    assert all(name in header for name in LIBRARY)
    assert set(json.loads((FOLDER / "package.json").read_text())["files"]) == set(LIBRARY)


async def test_the_contest_s_name_is_text() -> None:
    async with serving(name='<b>"CTF" & more') as node:
        index = (await node.ask("/")).body.decode()
        assert "<title>&lt;b&gt;&quot;CTF&quot; &amp; more</title>" in index
        assert "<b>" not in index


async def test_switched_off_there_is_none() -> None:
    async with serving(page=False) as node:
        for target in ("/", "/scoreboard.js", f"/page/{'0' * 16}/main.js"):
            assert (await node.ask(target)).status == 404
        assert (await node.ask("/api/scoreboard")).status == 200
