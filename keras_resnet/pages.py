"""HTML pages that hold all they show: one shell (templates/base.html.jinja), no request to anywhere.

The demo's page alone runs scripts.
"""

import base64
import functools
import io
import re
from typing import Any

import jinja2
from PIL import Image

# How many colours for curves the shell has, --series-0 and so on; further curves are dashed in the same colours.
SERIES = 8


def render_page(template: str, **values: Any) -> str:
    """Fills a template of keras_resnet/templates. Text is escaped; what `jinja2` knows as `Markup` is taken as HTML."""
    return _environment().get_template(template).render(**values)


def light_colors() -> dict[str, str]:
    """Returns the shell's colours on white: CSS variable → "#rrggbb" or "#rgb"."""
    shell, _, _ = _environment().loader.get_source(_environment(), "base.html.jinja")
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", shell[: shell.index("@media")]))


def embedded(picture: Image.Image, alternative: str) -> dict[str, Any]:
    """Returns a picture as the macro `image` takes it: PNG data in base64, its size, and its text."""
    return {
        "data": base64.b64encode(png(picture)).decode(),
        "width": picture.width,
        "height": picture.height,
        "alternative": alternative,
    }


def png(picture: Image.Image) -> bytes:
    """Returns a picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("keras_resnet"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
