"""The Allegro model, variants A and B, one small module a block."""

from __future__ import annotations
