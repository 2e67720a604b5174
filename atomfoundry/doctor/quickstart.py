"""What ``atomfoundry run quickstart`` needs, and how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.findings import Finding, ok, problem
from atomfoundry.doctor.registry import check
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

PRESET = "quickstart"


def preset_engines(preset: str = PRESET) -> dict[str, dict[str, Any]]:
    """Return the engines that a shipped preset labels with, and their settings.

    The preset's file is read as it is: building its Maker would import PyTorch.

    Parameters
    ----------
    preset
        Its name.
    """
    from importlib.resources import files

    import yaml

    text = (files("atomfoundry.workflows") / "presets" / f"{preset}.yaml").read_text()
    arguments = yaml.safe_load(text)["arguments"]
    makers = [value for value in arguments.values() if isinstance(value, dict) and "engine" in value]
    found: dict[str, dict[str, Any]] = {}
    for maker in makers:
        found.setdefault(maker["engine"], maker.get("engine_settings", {}))
    return found


@check("quickstart", "codes", limit=30.0)
def quickstart(world: World) -> Iterator[Finding]:
    """Check that all is there that ``atomfoundry run quickstart`` needs."""
    from atomfoundry.engines import get_engine

    _ = world.settings
    engines = preset_engines()
    missing = False
    for name, settings in engines.items():
        try:
            get_engine(name, **settings).check_available()
        except InputError as error:
            missing = True
            cure = error.remedy or f"atomfoundry engine install {name}"
            yield problem(f"The quickstart labels with '{name}': {error.message}", cure, engine=name)
    if not missing:
        yield ok(f"Ready for 'atomfoundry run {PRESET}' ({', '.join(engines)})", engines=sorted(engines))
