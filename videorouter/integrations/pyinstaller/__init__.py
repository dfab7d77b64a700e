"""What PyInstaller must know to pack this package. It asks by itself, through the entry point ``pyinstaller40``."""

from __future__ import annotations

from pathlib import Path


def list_hook_folders() -> list[str]:
    """The folders of hooks, as PyInstaller asks for them."""
    return [str(Path(__file__).parent)]
