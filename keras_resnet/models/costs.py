"""`Complexity`, and what the networks of the table were measured to cost, so that a list of them builds none.

Imports no Keras. `tests/models/record_costs.py` writes `costs_table`; a row that has changed since is measured anew.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.config_files import NAMING
from keras_resnet.models.costs_table import COSTS


@dataclass(frozen=True)
class Complexity:
    """The cost of one network at one input size.

    Attributes:
        parameters: Trainable parameters, as papers and PyTorch count them.
        total_parameters: With the moving statistics of batch normalisation, as Keras' summary counts them.
        multiply_adds: Multiply-accumulate operations for one image in convolutions and dense layers; what papers call
            FLOPs (He 2015, table 1).
        feature_maps: (height, width, channels) that leave each stage.
    """

    parameters: int
    total_parameters: int
    multiply_adds: int
    feature_maps: tuple[tuple[int, int, int], ...]


def recorded_cost(config: ResNetConfig) -> Complexity | None:
    """Returns what a network of the table costs at its own input size; None where that was not measured."""
    digest, *cost = COSTS.get(config.name, ("",))
    return Complexity(*cost) if digest == config_digest(config) else None


def config_digest(config: ResNetConfig) -> str:
    """Returns eight hexadecimal digits that change with the network; a new field with its default changes nothing."""
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in NAMING and getattr(config, field.name) != field.default
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
