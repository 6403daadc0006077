"""The URL of a PostgreSQL database: what is wrong with it, and which server it names. No secret of it is repeated.

A URL is right if asyncpg's own parser takes it; before that parser has its say, the usual mistakes are told in words.
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
"What may follow the question mark: what asyncpg takes for itself, and a few settings of the server."
_SSL_MODES = tuple(mode.name.replace("_", "-") for mode in connect_utils.SSLMode)

ENCODE = "with special characters of the password %-encoded"


def problem(dsn: str) -> str | None:
    """What is wrong with it and how to fix it, in one line without any value of it; None if nothing is."""
    if not re.fullmatch(r"postgres(ql)?://\S*", dsn):
        return f"not a PostgreSQL URL; write postgresql://user:password@host:5432/database, {ENCODE}"
    if re.search(r"%(?![0-9A-Fa-f]{2})", dsn):
        return "a % is not followed by two hexadecimal digits; write %25 for a % of the password"
    if "\0" in unquote(dsn) or not _is_utf8(unquote_to_bytes(dsn)):
        return "what is %-encoded is not text in UTF-8, or contains %00; correct it"
    try:
        parts = urlsplit(dsn)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), errors="strict")
    except ValueError:
        return f"not a PostgreSQL URL; write postgresql://user:password@host:5432/database?option=value, {ENCODE}"
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if parts.netloc.count("@") > 1 or "/" in parts.path[1:] or parts.fragment or "@" in parts.path + parts.query:
        return "a special character stands where none may; %-encode those of the user name and password"
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
        return f"sslmode is none of {', '.join(_SSL_MODES)}; correct it"
    if options.get("sslrootcert") == "system":
        return "sslrootcert=system is not supported; name a file, such as /etc/ssl/certs/ca-certificates.crt"
    if "port" in options and not all(map(_is_port, options["port"].split(","))):
        return "the option port is not a number from 1 to 65535; correct it"
    return None


def _parser_problem(dsn: str) -> str | None:
    try:
        for address in _parsed(dsn)[0]:
            address[0].encode("idna")  # as a look-up of its name would
    except UnicodeError:
        return f"a host is neither a name nor an address; write host:5432, {ENCODE}"
    except ssl.SSLError:
        return "a file that it names (sslrootcert, sslcert, sslkey or sslcrl) is not PEM, or the key is another's"
    except OSError as error:
        return f"a file that it names (sslrootcert, sslcert, sslkey or sslcrl): {error.strerror or 'cannot be read'}"
    except Exception as error:  # noqa: BLE001  whatever asyncpg's parser raises, it does not take the URL
        said = str(error)
        if "root certificate file" in said:
            return "sslmode=verify-ca or verify-full needs sslrootcert=FILE, such as /etc/ssl/certs/ca-certificates.crt"
        if "port numbers" in said:
            return "as many ports as hosts are needed, or one port for all; correct the lists"
        for option in ("target_session_attrs", "sslnegotiation", "TLS version"):
            if option in said:
                return f"the {option} is not one that the driver knows; correct it"
        return f"the driver cannot read it; write postgresql://user:password@host:5432/database, {ENCODE}"
    return None


def _parsed(dsn: str) -> Any:
    """(addresses, parameters), as asyncpg will have them."""
    parse = connect_utils._parse_connect_dsn_and_args  # noqa: SLF001  there is no public one
    arguments = dict.fromkeys(inspect.signature(parse).parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of password files; asyncpg warns again when it connects
        return parse(**arguments | {"dsn": dsn})


@lru_cache
def place(dsn: str) -> str:
    """Host, port and database, for messages. Empty if the URL is wrong: any part of it may then be of the password."""
    if problem(dsn) is not None:
        return ""
    addresses, parameters = _parsed(dsn)
    servers = ",".join(address if isinstance(address, str) else _server(*address) for address in addresses)
    return "".join(char if char.isprintable() else "?" for char in f"{servers}/{parameters.database}")


def _server(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class DsnError(ValueError):
    """The URL is wrong; one line."""


def require(dsn: str) -> None:
    """Raise `DsnError` unless the URL is right."""
    if (found := problem(dsn)) is not None:
        raise DsnError(found)
