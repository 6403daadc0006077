"""Evaluates Accept-Encoding (RFC 9110 §12.5.3) and If-None-Match (RFC 9110 §13.1.2)."""

from scoreboardd.cache.document_cache import CONTENT_ENCODINGS


def coding(accepted: str) -> str:
    """Return the content coding for this Accept-Encoding: the first of `CONTENT_ENCODINGS` with the best quality."""
    quality: dict[str, float] = {}
    for item in accepted.split(","):
        coding, _, parameter = item.partition(";")
        name, _, value = parameter.partition("=")
        try:
            q = float(value) if name.strip().lower() == "q" else 1.0
        except ValueError:
            q = 0.0
        quality[coding.strip().lower()] = q if 0 <= q <= 1 else 0.0  # NaN fails both comparisons
    best = max((quality.get(coding, quality.get("*", 0.0)) for coding in CONTENT_ENCODINGS), default=0.0)
    if best <= 0 or quality.get("identity", 0.0) > best:
        return "identity"
    return next(coding for coding in CONTENT_ENCODINGS if quality.get(coding, quality.get("*", 0.0)) == best)


def matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether `etag` is in `if_none_match`. The comparison is weak: the content coding does not matter."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags
