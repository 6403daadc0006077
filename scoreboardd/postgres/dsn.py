"""Checks the URL of a PostgreSQL database, and returns the server that it names. No text repeats a secret of the URL.

A URL is valid if asyncpg's own parser accepts it. Before that, `problem` looks for the usual mistakes, for which it has
a better text than the parser.
"""

import difflib
import inspect
import re
import ssl
import warnings
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_to_bytes, urlsplit

from asyncpg import connect_utils

_OPTIONS = frozenset(
    {
        *("host", "port", "user", "password", "passfile", "dbname", "database", "service"),
        *("sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib"),
        *("application_name", "options", "search_path"),
    }
)
"The options that may follow the question mark: those that asyncpg handles itself, and a few settings of the server."
_SSL_MODES = tuple(mode.name.replace("_", "-") for mode in connect_utils.SSLMode)

ENCODE = "with special characters of the password %-encoded"
"The end of a sentence on how to write a URL."
_FILE = "a file that it names (sslrootcert, sslcert, sslkey or sslcrl)"


def problem(dsn: str) -> str | None:
    """Return one line on what is wrong with `dsn` and how to fix it, without any value of it. None if it is valid."""
    if not re.fullmatch(r"postgres(ql)?://\S*", dsn):
        return f"not a PostgreSQL URL; write postgresql://user:password@host:5432/database, {ENCODE}"
    if re.search(r"%(?![0-9A-Fa-f]{2})", dsn):
        return "a % is not followed by two hexadecimal digits; write %25 for a % of the password"
    if "\0" in unquote(dsn) or not _is_utf8(unquote_to_bytes(dsn)):
        return "a %-encoded part is not text in UTF-8, or contains %00; correct it"
    try:
        parts = urlsplit(dsn)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), errors="strict")
    except ValueError:
        return f"not a PostgreSQL URL; write postgresql://user:password@host:5432/database?option=value, {ENCODE}"
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if parts.netloc.count("@") > 1 or "/" in parts.path[1:] or parts.fragment or "@" in parts.path + parts.query:
        return "a special character is in a place where it is not allowed; %-encode those of the user name and password"
    if any(not _is_port(_port(host)) for host in hosts):
        return f"a port is not a number from 1 to 65535; write host:5432, {ENCODE}"
    return _options_problem(dict(options)) or _parser_problem(dsn)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _port(host: str) -> str:
    return re.sub(r"^\[.*\]|^[^:]*", "", host).removeprefix(":") or "5432"


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}", text)) and 0 < int(text) < 65_536


def _options_problem(options: dict[str, str]) -> str | None:
    for name in options:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.8)
            instead = f"did you mean {near[0]}?" if near else "remove it"
            known = name if re.fullmatch("[a-zA-Z_]{1,40}", name) else "an option"
            return f"{known} is not an option of this driver; {instead}"
    if (mode := options.get("sslmode")) is not None and mode not in _SSL_MODES:
        return f"sslmode is not one of {', '.join(_SSL_MODES)}; correct it"
    if options.get("sslrootcert") == "system":
        return "sslrootcert=system is not supported; name a file, such as /etc/ssl/certs/ca-certificates.crt"
    if "port" in options and not all(map(_is_port, options["port"].split(","))):
        return "the option port is not a number from 1 to 65535; correct it"
    return None


def _parser_problem(dsn: str) -> str | None:
    try:
        for address in _parsed(dsn)[0]:
            address[0].encode("idna")  # as a DNS look-up does
    except UnicodeError:
        return f"a host is neither a name nor an address; write host:5432, {ENCODE}"
    except ssl.SSLError:
        return f"{_FILE} is not PEM, or the key does not match; correct it"
    except OSError as error:
        return f"{_FILE}: {error.strerror or 'cannot be read'}; correct it"
    except Exception as error:  # noqa: BLE001  asyncpg's parser may raise anything for a URL it rejects
        text = str(error)
        if "root certificate file" in text:
            return "sslmode=verify-ca or verify-full needs sslrootcert=FILE, such as /etc/ssl/certs/ca-certificates.crt"
        if "port numbers" in text:
            return "the number of ports differs from the number of hosts; give one port per host, or one port for all"
        for option in ("target_session_attrs", "sslnegotiation", "TLS version"):
            if option in text:
                return f"the value of {option} is not one that the driver supports; correct it"
        return f"the driver cannot read it; write postgresql://user:password@host:5432/database, {ENCODE}"
    return None


def _parsed(dsn: str) -> Any:
    """Return the addresses and the parameters that asyncpg reads from `dsn`."""
    parse = connect_utils._parse_connect_dsn_and_args  # noqa: SLF001  asyncpg has no public parser
    arguments = dict.fromkeys(inspect.signature(parse).parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about password files; asyncpg warns again when it connects
        return parse(**arguments | {"dsn": dsn})


@lru_cache
def place(dsn: str) -> str:
    """Return host, port and database for messages.

    Empty if `dsn` is invalid, because any part of it may then belong to the password.
    """
    if problem(dsn) is not None:
        return ""
    addresses, parameters = _parsed(dsn)
    servers = ",".join(address if isinstance(address, str) else _server(*address) for address in addresses)
    return "".join(char if char.isprintable() else "?" for char in f"{servers}/{parameters.database}")


def _server(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class DsnError(ValueError):
    """The URL is invalid. The text is one line: what is wrong and how to fix it."""


def require(dsn: str) -> None:
    """Raise `DsnError` unless `dsn` is valid."""
    if (found := problem(dsn)) is not None:
        raise DsnError(found)
