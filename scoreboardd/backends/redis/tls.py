"""Checks the files that the TLS options of a Redis URL name, as the client loads them."""

import ssl
from pathlib import Path

from redis.asyncio.connection import parse_url

_AUTHORITY, _CERTIFICATE, _KEY = FILE_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"The options of a `rediss://` URL that name a file."


def file_problem(url: str) -> str | None:
    """Return why the first unusable file of the valid `url` is unusable, in one line. None if the client can load all.

    The text names the option and the file, and contains nothing else of `url`.
    """
    options: dict[str, object] = {**parse_url(url)}
    files = {option: str(options[option]) for option in FILE_OPTIONS if option in options}
    for option, file in files.items():
        try:
            with Path(file).open("rb"):
                pass
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not the name of a file"
            return f"{option} in the Redis URL: {file}: {why}; name a file that the daemon may read"
    if _KEY in files and _CERTIFICATE not in files:
        return f"{_KEY} in the Redis URL: {files[_KEY]} has no certificate; name its file with {_CERTIFICATE}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if _AUTHORITY in files:
            context.load_verify_locations(files[_AUTHORITY])
    except ssl.SSLError:
        return f"{_AUTHORITY} in the Redis URL: {files[_AUTHORITY]} has no certificate; name a file in PEM"
    try:
        if _CERTIFICATE in files:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(files[_CERTIFICATE], files.get(_KEY), password="")
    except ssl.SSLError:
        named = " and ".join(f"{option} {files[option]}" for option in (_CERTIFICATE, _KEY) if option in files)
        return (
            f"{named} in the Redis URL: not a certificate with its key; name files in PEM, the key without a password"
        )
    return None
