"""HTML page from a template: one file with data, styles and scripts, which loads nothing from the network.

The page holds its data as JSON and shows them through `textContent` only, and a policy in its head allows no script
but its own, so that no file's name can inject code.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tisdiss_cli.files import shown, writing

_ASSETS = Path(__file__).parent / "assets"


def write_page(path: Path, template: str, *, scripts: Sequence[str], data: dict[str, Any], **values: Any) -> None:
    """Writes the page whole or not at all; UserError if it cannot be written.

    Args:
        path: the page.
        template: name below assets/.
        scripts: names below assets/, in the order in which they run.
        data: JSON types, which the scripts read.
        values: the template's variables.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    script = "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in scripts)
    style = (_ASSETS / "page.css").read_text(encoding="utf-8")
    text = environment.get_template(template).render(
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
        data=Markup(_json(data)),
        **values,
    )
    with writing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def link(target: Path, page: Path) -> str:
    """Returns the percent-encoded address of a folder relative to a page, with "/" at its end; absolute if need be."""
    target, folder = Path(os.path.abspath(target)), os.path.abspath(page.parent)
    try:
        relative = Path(os.path.relpath(target, folder)).as_posix()
    except ValueError:  # on another drive
        return target.as_uri().rstrip("/") + "/"
    return quote(os.fsencode(relative)) + "/"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: dict[str, Any]) -> str:
    """Returns compact JSON that cannot end a script element, with bytes that are not UTF-8 as escapes."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = re.sub(r"[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
