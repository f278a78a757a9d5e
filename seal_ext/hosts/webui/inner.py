"""Pictures that another extension draws inside the user's, such as the faces of ADetailer: SeAl acts there if it was asked to."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from modules import shared

from seal_ext.request import Request

OUR_SCRIPT = "seal"  # as ADetailer names scripts: by their files
RUN_BY_ADETAILER = "ad_script_names"  # its setting with the scripts that it runs
HOST, DRAWS = "modules.processing", "process_images_inner"


def is_inner(p: Any) -> bool:
    """Whether this is drawn inside another picture. ADetailer marks its own; of all others only the calls that led here tell."""
    return bool(getattr(p, "_ad_inner", False)) or _is_drawing_another(p)


def _is_drawing_another(p: Any) -> bool:
    """Whether the host is in the middle of another `p`; before a picture's first script it has not begun to draw that one itself."""
    frame = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == DRAWS and frame.f_globals.get("__name__") == HOST and frame.f_locals.get("p") is not p:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def for_inner_pass(p: Any, asked: Request) -> Request:
    """What was asked for, where this may be a picture inside the user's."""
    settings = asked.settings
    if not settings.enabled:
        return asked
    if not is_inner(p):
        if settings.inner:
            _admit(p)
        return asked
    # Its canvas is a part of the picture, such as a face: there is no figure to put where the reference's is.
    return replace(asked, settings=replace(settings, enabled=settings.inner, align=False))


def _admit(p: Any) -> None:
    """ADetailer runs only scripts that its setting names. For this generation that names SeAl, too; the host puts it back afterwards."""
    if RUN_BY_ADETAILER not in shared.opts.data:
        return
    own = getattr(p, "override_settings", None) or {}
    named = str(own.get(RUN_BY_ADETAILER, shared.opts.data[RUN_BY_ADETAILER]))
    if OUR_SCRIPT not in (name.strip() for name in named.split(",")):
        p.override_settings = own | {RUN_BY_ADETAILER: f"{named},{OUR_SCRIPT}"}
