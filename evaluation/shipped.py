"""Where what kbit ships lies: models.yaml, sweeps/ and models/. setup.py puts them into wheels."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the packages
IS_CHECKOUT = (ROOT / "models.yaml").is_file()
SHIPPED = ROOT if IS_CHECKOUT else ROOT / "kbit" / "shipped"
