"""What the WebUI's Settings page and its command line say to SeAl, and how that ranks with what a run asks for."""

from __future__ import annotations

import html
from pathlib import Path

from modules import paths_internal, shared

from seal_ext.settings import BY_NAME, Settings
from seal_ext.shelf import Shelf
from seal_ext.store import Store

from . import process_state

CACHE, STORE, READINGS = "seal_cache_mb", "seal_store_mb", "seal_readings_mb"
USUAL_CACHE, MOST_CACHE = Settings().cache_mb, int(BY_NAME["cache_mb"].high or 0)
MOST_STORE, USUAL_STORE, USUAL_READINGS = 1 << 16, 256, 1024


def cache_mb(asked: int, own: int) -> int:
    """How many megabytes the cache has in a run. The first of these that says something holds, and nothing else decides:

    1. `asked`, the run's own `cache_mb`, unless it is at its default
    2. Settings → SeAl → Cache, unless 0
    3. --seal-cache-mb
    4. `own`, the default for the model's architecture
    """
    if asked != USUAL_CACHE:
        return asked
    flag = _number(getattr(shared.cmd_opts, CACHE, None), MOST_CACHE)
    return _number(getattr(shared.opts, CACHE, None), MOST_CACHE) or (own if flag is None else flag)


def store_bytes() -> int:
    """How large the store of references may become."""
    return _on_disk(STORE, USUAL_STORE)


def readings_bytes() -> int:
    """How much of the disk readings may take."""
    return _on_disk(READINGS, USUAL_READINGS)


def _on_disk(name: str, usual: int) -> int:
    chosen = _number(getattr(shared.opts, name, None), MOST_STORE)
    return (usual if chosen is None else chosen) * process_state.MEGABYTE


def store_folder() -> Path:
    """Where the store of references is: what --seal-store says, else a folder in the WebUI's data."""
    # A WebUI that has not started anew since SeAl was installed does not know SeAl's flags.
    named = getattr(shared.cmd_opts, "seal_store", None)
    return Path(named).expanduser().absolute() if named else Path(paths_internal.data_path).absolute() / "seal" / "references"


def settle() -> None:
    """Where references are kept and how large the cache is, before any run says otherwise."""
    process_state.store, process_state.shelf = Store(store_folder(), store_bytes), Shelf(store_folder(), readings_bytes)
    process_state.cache.resize(cache_mb(USUAL_CACHE, USUAL_CACHE) * process_state.MEGABYTE)


def add_section() -> None:
    """SeAl's section on the Settings page."""
    cache = ("memory for references, unless a run changes its own Cache (MB). 0 takes the value of --seal-cache-mb, else "
             f"{USUAL_CACHE}, or more for SDXL")  # fmt: skip
    store = ("on disk, so that pasting a picture's parameters brings its reference back, also after a restart. The longest unused go "
             f"first. 0 keeps none and deletes those in {html.escape(str(store_folder()))}")  # fmt: skip
    _add(CACHE, 0, "Cache (MB)", cache, MOST_CACHE, settle)
    readings = ("on disk, so that a reference that was read once is not read again, also after a restart. They lie beside the references. "
                "The longest unused go first. 0 keeps none and deletes those that are there")  # fmt: skip
    _add(STORE, USUAL_STORE, "Keep references (MB)", store, MOST_STORE, process_state.trim)
    _add(READINGS, USUAL_READINGS, "Keep readings (MB)", readings, MOST_STORE, process_state.trim)


def _add(name: str, default: int, label: str, told: str, most: int, changed) -> None:
    import gradio as gr

    sizes = {"minimum": 0, "maximum": most, "step": 64}
    option = shared.OptionInfo(default, label, gr.Slider, sizes, onchange=changed, section=("seal", "SeAl"))
    shared.opts.add_option(name, option.info(told))


def _number(value: object, most: int) -> int | None:
    """A whole number in range, or None: nothing checks what stands in a settings file or comes over the API."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        return None
    return int(value)


def has_api() -> bool:
    return bool(shared.cmd_opts.api or getattr(shared.cmd_opts, "nowebui", False))


def guards(app) -> list:
    """What stands before the WebUI's own routes: its check of --api-auth, where there is one."""
    own = next((route for route in app.routes if getattr(route, "path", "") == "/sdapi/v1/txt2img"), None)
    found = list(own.dependencies) if own is not None else []
    if shared.cmd_opts.api_auth and not found:
        raise RuntimeError("SeAl does not find this WebUI's check of --api-auth, so its routes under /seal/v1 are off.")
    return found
