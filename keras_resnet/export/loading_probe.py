"""Loads a .tflite file with LiteRT, in a process of its own: `python loading_probe.py FILE`.

A damaged file may end the process that loads it. Prints one JSON object: what the interpreter says against the file, or
null. Imports nothing of the project.
"""

import json
import sys


def main(path):
    from ai_edge_litert.interpreter import Interpreter

    error = None
    try:
        Interpreter(model_path=path).allocate_tensors()
    except (ValueError, RuntimeError) as raised:
        error = " ".join(str(raised).split()) or type(raised).__name__
    print(json.dumps(error))


if __name__ == "__main__":
    main(sys.argv[1])
