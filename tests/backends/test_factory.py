"""The registry of backends and the configuration name the same backends."""

import json
from typing import get_args

import pytest

from scoreboardd.backends.factory import BACKENDS, document_store_options, open_document_store
from scoreboardd.config import Settings
from scoreboardd.config.schema import Coordination


def test_the_configuration_accepts_the_backends_of_the_registry():
    assert set(get_args(Coordination.model_fields["backend"].annotation)) == BACKENDS.keys()


@pytest.mark.parametrize("name", BACKENDS)
async def test_the_options_of_a_document_store_survive_json(name: str):
    settings = Settings.model_validate({"coordination": {"backend": name}})
    document_store = open_document_store(**json.loads(json.dumps(document_store_options(settings))))
    await document_store.aclose()
