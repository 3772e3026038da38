"""Pages of the site that are made from other files: the notebooks."""

import json
from pathlib import Path

from mkdocs.structure.files import File, Files


def on_files(files: Files, config) -> Files:
    """Adds a page for each notebook: its text as it is, its code as code."""
    for path in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_text(path)))
    return files


def notebook_text(path: Path) -> str:
    """Returns a notebook as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + f"\n\nThis page is the notebook `docs/notebooks/{path.name}`.\n"
