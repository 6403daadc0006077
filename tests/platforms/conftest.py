"""A platform's database, and somebody to connect to it who may do only what a test lets them."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import pytest


@dataclass(frozen=True)
class Role:
    name: str
    dsn: str


@pytest.fixture
async def role(admin: Any, platform: str) -> AsyncIterator[Role]:
    """Who may connect and nothing else."""
    name, password = f"test_{secrets.token_hex(8)}", secrets.token_hex(8)
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    yield Role(name, as_user(platform, name, password))
    await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def as_user(dsn: str, name: str, password: str) -> str:
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(name)}:{quote(password)}@{place}").geturl()
