"""Jobs that do what careless code does; in a module of their own so that workers can import them."""

from __future__ import annotations

import logging
import os

from jobflow import job
from planted_secrets import ALL, MARK

from atomfoundry.settings import settings


@job
def tell_and_fail() -> None:
    """Print and raise settings."""
    assert os.environ["PLANTED_TOKEN"].startswith(MARK)
    key = settings().materials_project_key
    assert key is not None
    assert key.get_secret_value() == ALL["ATOMFOUNDRY_MATERIALS_PROJECT_KEY"]
    print(settings(), settings().model_dump(), settings().model_dump_json())  # noqa: T201
    logging.getLogger("atomfoundry").warning("settings: %r", settings())
    raise ValueError(f"not with {settings()!r}")
