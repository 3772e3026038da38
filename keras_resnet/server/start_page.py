"""Two small pages for people: what is served, and the API. They load nothing from anywhere."""

from collections.abc import Iterable
from html import escape
from typing import Any
from urllib.parse import quote

from keras_resnet.server.repository import Model

_SHELL = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #8886 }}
code, pre {{ font: 14px/1.5 ui-monospace, monospace }}
pre {{ overflow-x: auto; padding: .7rem; border: 1px solid #8886; border-radius: 4px }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def start_page(models: Iterable[Model] | None) -> str:
    """Returns the page of what is served.

    Args:
        models: The models; None where the reader may not know them.
    """
    parts = ["<h1>keras-resnet server</h1>"]
    if models is None:
        parts.append("<p>The models are listed for those who bring an API key.</p>")
    else:
        parts.append("<table><tr><th>Model<th>Version<th>Answers by<th>Images<th>Classes<th>Heat maps</tr>")
        examples = []
        for model in models:
            for number, servable in sorted(model.servables.items(), reverse=True):
                backend = servable.backend
                height, width, channels = backend.input_shape
                link = f'<a href="/v1/models/{quote(model.name)}">{escape(model.name)}</a>'
                cells = (f"{height} × {width} × {channels}", str(len(backend.labels)), _DRAWN[backend.heatmaps])
                shown = "".join(f"<td>{escape(cell)}" for cell in (str(number), backend.file.format, *cells))
                parts.append(f"<tr><td>{link}{shown}</tr>")
            url = f"http://HOST:PORT/v1/models/{quote(model.name)}:classify"
            examples.append(f"curl --data-binary @image.jpg '{url}?top=3'")
        parts.append("</table><h2>Ask</h2><pre>" + escape("\n".join(examples)) + "</pre>")
    parts.append('<p><a href="/docs">The API</a> · <a href="/openapi.json">OpenAPI</a> · ')
    parts.append('<a href="/metrics">Metrics</a> · <a href="/readyz">Ready?</a></p>')
    return _SHELL.format(title="keras-resnet server", body="\n".join(parts))


_DRAWN = {"none": "none", "top": "of the most probable class", "class": "of any class"}


def api_page(text: dict[str, Any]) -> str:
    """Returns an OpenAPI document as a page.

    Args:
        text: The document.
    """
    parts = [f"<h1>{escape(text['info']['title'])} {escape(text['info']['version'])}</h1>"]
    parts.append(f"<p>{escape(text['info'].get('description', ''))}</p>")
    for path, operations in text["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('summary', ''))}</p><table>")
            for parameter in operation.get("parameters", ()):
                kind = f"{parameter['in']}, {parameter['schema'].get('type', '')}"
                told = f"{kind}. {parameter['description']}" if "description" in parameter else kind
                parts.append(f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(told)}</tr>")
            if "requestBody" in operation:
                kinds = ", ".join(operation["requestBody"]["content"])
                parts.append(f"<tr><td>body<td>{escape(kinds)}</tr>")
            for code, answer in operation["responses"].items():
                kinds = ", ".join(answer.get("content", {}))
                parts.append(f"<tr><td>{code}<td>{escape(answer['description'])} {escape(kinds)}</tr>")
            parts.append("</table>")
    return _SHELL.format(title=escape(text["info"]["title"]), body="\n".join(parts))
