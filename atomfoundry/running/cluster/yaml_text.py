"""YAML that PyYAML and FireWorks' YAML 1.2 reader understand alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@+ -]*")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that might be read as something else; several lines become a block."""


def _represent(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None if _PLAIN.fullmatch(value) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent)


def yaml_text(content: Mapping[str, Any], comment: str = "") -> str:
    """Return YAML with a comment before it.

    Parameters
    ----------
    content
        Plain values.
    comment
        Lines, without their ``#``.
    """
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return head + yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=1000)
