"""Writes costs_table.py: what every network of the table costs. Takes about a minute.

Run from the project's root: `PYTHONPATH=. python tests/models/record_costs.py`.
"""

from pathlib import Path

from keras_resnet.models import complexity
from keras_resnet.models.costs import config_digest
from keras_resnet.models.registry import REGISTRY

PATH = Path(complexity.__file__).with_name("costs_table.py")


def main() -> None:
    rows = []
    for name, config in REGISTRY.items():
        cost = complexity.measure(config)
        counts = f"{cost.parameters:_}, {cost.total_parameters:_}, {cost.multiply_adds:_}"
        rows.append(f'    "{name}": ("{config_digest(config)}", {counts},\n     {cost.feature_maps}),')
        print(rows[-1], flush=True)
    PATH.write_text(
        '"""Recorded by `tests/models/record_costs.py`; see `costs`."""\n\n'
        "# name → digest of the configuration, parameters, with moving statistics, multiply-adds, maps of the stages\n"
        "COSTS = {\n" + "\n".join(rows) + "\n}  # fmt: skip\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
