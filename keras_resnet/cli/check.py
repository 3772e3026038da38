"""`keras-resnet check FILE.tflite`: what a phone's runtime and accelerators will make of a file."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import script

_NAMES = {"gpu": "GPU delegate", "nnapi": "NNAPI 1.3"}


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="keras-resnet check",
        description="Loads a .tflite file with LiteRT and compares its operators with what the GPU delegate and NNAPI "
        "publish that they take; the rest runs on the processor. Estimates the memory. Exit code 0: the file runs, and "
        "what --require names takes all of it; 1: not.",
    )
    parser.add_argument("file", type=Path, metavar="FILE.tflite", help="file to look at")
    parser.add_argument(
        "--require", choices=tuple(_NAMES), action="append", default=[], help="fail where this one refuses an operator"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, prints what was found, and returns the exit code."""
    return script.run(_check, build_parser(), argv)


def _check(arguments: argparse.Namespace) -> int:
    from keras_resnet.export.checking import check_file

    found = check_file(arguments.file)
    if arguments.json:
        print(json.dumps(_as_json(found)))
    else:
        print("\n".join(_lines(found)))
    is_refused = any(found.accelerators[name].refused for name in arguments.require)
    return 1 if found.runtime_error is not None or is_refused else 0


def _lines(found) -> list[str]:
    from keras_resnet.archives import megabytes

    lines = [f"{found.path}: {megabytes(found.bytes)}, {sum(found.operators.values())} operators"]
    for title, tensors in (("takes", found.inputs), ("returns", found.outputs)):
        lines += [f"  {title:8} {name}: {_tensor(tensor)}" for name, tensor in tensors.items()]
    weights, activations = megabytes(found.weight_bytes), megabytes(found.activation_bytes)
    lines.append(f"  memory   {weights} of weights, {activations} for what is computed of one image")
    runtime = "loads it" if found.runtime_error is None else f"refuses it: {found.runtime_error}"
    if found.oldest_runtime is not None:
        runtime += f" (written for TensorFlow Lite {found.oldest_runtime} and later)"
    lines.append(f"LiteRT       {runtime}")
    for name, delegation in found.accelerators.items():
        if not delegation.refused:
            lines.append(f"{_NAMES[name]:12} takes all {delegation.operators} operators")
            continue
        parts = "" if delegation.parts < 2 else f", in {delegation.parts} parts"
        lines.append(f"{_NAMES[name]:12} takes {delegation.taken} of {delegation.operators} operators{parts}")
        lines += [
            f"             {kind} {reason}{'' if count == 1 else f' ({count} times)'}"
            for (kind, reason), count in sorted(delegation.refused.items())
        ]
    lines += [f"The file lacks {what}" for what in found.missing_metadata]
    return lines


def _tensor(tensor) -> str:
    sides = ", ".join("any" if side < 0 else str(side) for side in tensor.shape)
    return f"{tensor.dtype} ({sides})"


def _as_json(found) -> dict:
    def tensors(named) -> dict:
        return {name: {"dtype": tensor.dtype, "shape": list(tensor.shape)} for name, tensor in named.items()}

    return {
        "file": str(found.path),
        "bytes": found.bytes,
        "inputs": tensors(found.inputs),
        "outputs": tensors(found.outputs),
        "operators": found.operators,
        "weight_bytes": found.weight_bytes,
        "activation_bytes": found.activation_bytes,
        "runtime_error": found.runtime_error,
        "oldest_runtime": found.oldest_runtime,
        "accelerators": {
            name: {
                "taken": each.taken,
                "operators": each.operators,
                "parts": each.parts,
                "refused": [
                    {"operator": kind, "reason": reason, "count": count}
                    for (kind, reason), count in sorted(each.refused.items())
                ],
            }
            for name, each in found.accelerators.items()
        },
        "missing_metadata": list(found.missing_metadata),
    }
