"""The Allegro model, variant A, one small module a block."""

from __future__ import annotations
