"""PyInstaller runs this where a program imports ``videorouter``: most of it is imported by name, on first use."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports: list[str] = [
    *collect_submodules("videorouter", filter=lambda name: not name.startswith("videorouter.integrations")),
    "anyio._backends._asyncio",
]
datas: list[tuple[str, str]] = collect_data_files("fontpkg_noto_sans")
