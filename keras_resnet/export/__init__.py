"""Trained networks as files for servers and phones, each checked against the network that it came from.

`from keras_resnet.export import export` is the call behind export.py.
"""


def __getattr__(name: str):
    # Loaded on first use: the parts of this package do not need each other's libraries.
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_resnet.export.pipeline import export

    return export
