"""Which operators of a .tflite file phones' accelerators take: rules as tables.

Sources, both of LiteRT 2.2.0: tflite/tools/versioning/gpu_compatibility.cc for the GPU delegate, with the types that
`GetOpsToReplace` in tflite/delegates/gpu/common/model_builder.cc lets through, and
tflite/delegates/nnapi/nnapi_delegate.cc, `NNAPIDelegateKernel::Validate`, for NNAPI 1.3 (Android 11, API level 30).
NNAPI is the oldest interface to Android's accelerators and deprecated since Android 15; what it refuses, drivers
that came after it mostly refuse too. Recurrent networks' operators and tables of embeddings are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keras_resnet.export.tflite_file import Tensor

FLOAT, INTEGER, BOOL = frozenset({"float32"}), frozenset({"int32"}), frozenset({"bool"})
EIGHT_BITS = frozenset({"int8", "uint8"})
_NUMBERS = FLOAT | EIGHT_BITS
_ANY = _NUMBERS | INTEGER
_GPU_TYPES = _NUMBERS | {"float16"}


@dataclass(frozen=True)
class Rule:
    """When an accelerator takes an operator.

    Attributes:
        types: What the first input that counts may be.
        version: The highest version of the operator; None: any.
        input: Which input counts.
        inputs: How many inputs there must be; 0: any number.
        computed: How many inputs that are no constants there may be; None: any number.
        constants: Inputs that must be constants.
        ranks: How many dimensions the input may have; (): any number.
        index_rank: How many dimensions the second input must have; None: any number.
        same_shape: Whether the first two inputs must have one shape.
    """

    types: frozenset[str]
    version: int | None = None
    input: int = 0
    inputs: int = 0
    computed: int | None = None
    constants: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    index_rank: int | None = None
    same_shape: bool = False


_COMPARISON = Rule(_ANY | BOOL, 2)
_FLOAT = Rule(FLOAT, 1)
_ACTIVATION = Rule(_NUMBERS, 2)
NNAPI: Mapping[str, Rule] = {
    "ABS": _FLOAT,
    "ADD": Rule(_ANY, 2),
    "ARG_MAX": Rule(_ANY | {"float16"}, 2),
    "ARG_MIN": Rule(_ANY | {"float16"}, 2),
    "AVERAGE_POOL_2D": Rule(_NUMBERS, 2),
    "CAST": Rule(_ANY, 1),
    "CONCATENATION": Rule(_NUMBERS | {"float16"}, 2),
    "CONV_2D": Rule(_NUMBERS, 5, inputs=3),
    "COS": _FLOAT,
    "DEPTHWISE_CONV_2D": Rule(_NUMBERS, 3),
    "DEPTH_TO_SPACE": Rule(_NUMBERS),
    # Constants in float16 are widened when the file is loaded, whatever follows.
    "DEQUANTIZE": Rule(EIGHT_BITS | {"float16"}, 2),
    "DIV": _FLOAT,
    "ELU": _FLOAT,
    "EQUAL": _COMPARISON,
    "EXP": _FLOAT,
    "EXPAND_DIMS": Rule(_ANY | {"float16"}, 1, constants=(1,)),
    "FILL": Rule(FLOAT | INTEGER, 1, input=1, constants=(0,)),
    "FLOOR": Rule(_ANY, 1),
    "FULLY_CONNECTED": Rule(_NUMBERS, 5),
    "GATHER": Rule(_ANY | {"float16"}, 2),
    "GREATER": _COMPARISON,
    "GREATER_EQUAL": _COMPARISON,
    "HARD_SWISH": Rule(_NUMBERS),
    "L2_NORMALIZATION": Rule(_NUMBERS, 2),
    "LEAKY_RELU": Rule(_NUMBERS, 1),
    "LESS": _COMPARISON,
    "LESS_EQUAL": _COMPARISON,
    "LOCAL_RESPONSE_NORMALIZATION": _FLOAT,
    "LOG": _FLOAT,
    "LOGICAL_AND": Rule(BOOL, 1),
    "LOGICAL_NOT": Rule(BOOL, 1),
    "LOGICAL_OR": Rule(BOOL, 1),
    "LOGISTIC": _ACTIVATION,
    "LOG_SOFTMAX": _FLOAT,
    "MAXIMUM": Rule(_ANY, 3),
    "MAX_POOL_2D": Rule(_NUMBERS, 2),
    "MEAN": Rule(_NUMBERS, 2),
    "MINIMUM": Rule(_ANY, 3),
    "MUL": Rule(_ANY, 2),
    "NEG": Rule(FLOAT | INTEGER, 2),
    "NOT_EQUAL": _COMPARISON,
    "PACK": Rule(FLOAT | {"int8"}, 2),
    "PAD": Rule(_NUMBERS, 2),
    "PADV2": Rule(_NUMBERS, 2),
    "POW": _FLOAT,
    "PRELU": Rule(_NUMBERS, 1),
    "QUANTIZE": Rule(_NUMBERS, 2),
    "REDUCE_ANY": Rule(BOOL, 2),
    "REDUCE_MAX": Rule(_NUMBERS, 2),
    "REDUCE_MIN": Rule(_NUMBERS, 2),
    "REDUCE_PROD": _FLOAT,
    "RELU": _ACTIVATION,
    "RELU6": _ACTIVATION,
    "RELU_N1_TO_1": _ACTIVATION,
    "RESHAPE": Rule(_NUMBERS, 1, constants=(1,)),
    "RESIZE_BILINEAR": Rule(_NUMBERS, 3, constants=(1,)),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_NUMBERS, 3, constants=(1,)),
    "RSQRT": Rule(FLOAT, 2),
    "SELECT": Rule(_ANY, 2, input=1, same_shape=True),
    "SIN": _FLOAT,
    "SLICE": Rule(_ANY, 2),
    "SOFTMAX": Rule(_NUMBERS, 2),
    "SPACE_TO_BATCH_ND": Rule(_NUMBERS, 2),
    "SPACE_TO_DEPTH": Rule(_NUMBERS, 2),
    "SPLIT": Rule(_ANY, 3, input=1, constants=(0,)),
    "SPLIT_V": Rule(_ANY, 2, constants=(1, 2)),
    "SQRT": _FLOAT,
    "SQUARED_DIFFERENCE": Rule(_ANY, 2),
    "SQUEEZE": Rule(_ANY, 1),
    "STRIDED_SLICE": Rule(_NUMBERS, 2),
    "SUB": Rule(_ANY, 3),
    "SUM": _FLOAT,
    "TANH": _ACTIVATION,
    "TILE": Rule(_ANY, 1),
    "TOPK_V2": Rule(_ANY, 2, constants=(1,)),
    "TRANSPOSE": Rule(_ANY, 2, constants=(1,)),
    "TRANSPOSE_CONV": Rule(_NUMBERS, 4, input=2, constants=(0, 1)),
    "UNPACK": Rule(_NUMBERS, 2),
}


_ONE = Rule(_GPU_TYPES, computed=1)
_TWO = Rule(_GPU_TYPES, computed=2)
_REDUCTION = Rule(_GPU_TYPES, computed=1, constants=(1,))
_PADDING = Rule(_GPU_TYPES, computed=1, ranks=(3, 4))
_CHOICE = Rule(_GPU_TYPES, input=1)
GPU: Mapping[str, Rule] = {
    **dict.fromkeys(("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU"), _ONE),
    **dict.fromkeys(("LOG", "LOGISTIC", "NEG", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1", "RSQRT", "SIGN"), _ONE),
    **dict.fromkeys(("SIN", "SQRT", "SQUARE", "TANH", "RESHAPE", "TILE", "TRANSPOSE", "QUANTIZE"), _ONE),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _ONE),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "SOFTMAX", "SPLIT_V", "ROUND", "CUMSUM"), _ONE),
    **dict.fromkeys(("DIV", "EQUAL", "FLOOR_DIV", "FLOOR_MOD", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"), _TWO),
    **dict.fromkeys(
        ("MAXIMUM", "MINIMUM", "NOT_EQUAL", "POW", "SQUARED_DIFFERENCE", "SUB", "BATCH_MATMUL", "ATAN2"), _TWO
    ),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _TWO),
    **dict.fromkeys(("ADD", "ADD_N", "MUL"), Rule(_GPU_TYPES, inputs=2)),
    **dict.fromkeys(("CONCATENATION", "PACK", "TRANSPOSE_CONV"), Rule(_GPU_TYPES)),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REVERSE_V2", "SUM"), _REDUCTION),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _PADDING),
    **dict.fromkeys(("SELECT", "SELECT_V2"), _CHOICE),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE"), Rule(_GPU_TYPES, ranks=(3, 4))),
    "CAST": Rule(_GPU_TYPES | INTEGER | BOOL),
    "DEQUANTIZE": _ONE,
    "GATHER": Rule(_GPU_TYPES, computed=2, index_rank=1),
    "LOGICAL_AND": Rule(BOOL),
    "ONE_HOT": Rule(INTEGER),
    "SPLIT": Rule(_GPU_TYPES, input=1),
}
ACCELERATORS = {"gpu": GPU, "nnapi": NNAPI}


def refusal(accelerator: str, kind: str, version: int, inputs: list[Tensor], outputs: list[Tensor]) -> str | None:
    """Says why an accelerator leaves an operator to the processor.

    Args:
        accelerator: A key of `ACCELERATORS`.
        kind: The operator's name in TFLite's schema.
        version: Its version.
        inputs: What it takes, without what is left out.
        outputs: What it returns.

    Returns:
        The reason, as the predicate of a sentence; None where the accelerator takes it.
    """
    rule = ACCELERATORS[accelerator].get(kind)
    if rule is None:
        return "is not supported"
    if rule.version is not None and version > rule.version:
        return f"is of version {version}, above {rule.version}"
    if any(-1 in tensor.shape for tensor in (*inputs, *outputs)):
        return "has an open size"
    counted = inputs[rule.input] if rule.input < len(inputs) else None
    if counted is not None and counted.dtype not in rule.types:
        return f"takes {counted.dtype}"
    if outputs and outputs[0].dtype in ("int16", "int64"):
        return f"returns {outputs[0].dtype}"
    if rule.inputs and len(inputs) != rule.inputs:
        return f"has {len(inputs)} inputs, not {rule.inputs}"
    if rule.computed is not None and sum(not tensor.is_constant for tensor in inputs) > rule.computed:
        return f"has more than {rule.computed} inputs that are computed"
    if any(not inputs[place].is_constant for place in rule.constants if place < len(inputs)):
        return "has a shape or an axis that is computed"
    if counted is not None and rule.ranks and len(counted.shape) not in rule.ranks:
        return f"takes {len(counted.shape)} dimensions"
    if rule.index_rank is not None and len(inputs) > 1 and len(inputs[1].shape) != rule.index_rank:
        return f"is indexed by {len(inputs[1].shape)} dimensions"
    if rule.same_shape and len(inputs) > 1 and inputs[0].shape != inputs[1].shape:
        return "chooses among tensors of another shape than its condition"
    return None
