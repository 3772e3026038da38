"""Room for Keras to walk very deep graphs.

Keras walks a functional graph by recursion, one Python frame a layer. Python's limit of 1,000 frames ends that at
about 140 blocks: resnetrs270, resnet1202 and resnetv2_1001 cannot be built, cloned or loaded under it.
"""

import contextlib
import sys
from collections.abc import Iterator

# resnet1202 is about 4,300 layers deep; loading costs a few frames a layer.
FRAMES = 50_000


@contextlib.contextmanager
def deep_graphs() -> Iterator[None]:
    """Raises Python's recursion limit inside the `with` block, and puts the old one back.

    Use it around `keras.models.load_model` or `clone_model` of a network with more than 140 blocks.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, FRAMES))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
