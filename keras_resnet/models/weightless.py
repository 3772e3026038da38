"""Networks built for their shapes alone: variables that have names and shapes but no values, so no memory either."""

import threading
from collections.abc import Callable

import keras

from keras_resnet.models.config import ResNetConfig
from keras_resnet.models.resnet import build_model


def build_weightless(config: ResNetConfig | str, **options) -> keras.Model:
    """Builds a network whose variables hold nothing, in a fraction of the time: to be counted, not to be called.

    Args:
        config: A registry name or a configuration.
        **options: As for `build_model`.

    Returns:
        The model; shapes and names of its layers and variables are what `build_model` would give.

    Raises:
        UserError: As `build_model`.
    """
    return without_values(lambda: build_model(config, **options))


def without_values(build: Callable[[], keras.Model]) -> keras.Model:
    """Returns the model that a function builds, its variables left without values; raises what the function raises."""
    found: list[keras.Model] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            # Left to themselves, variables of a stateless scope are filled at its end.
            with keras.StatelessScope(initialize_variables=False):
                found.append(build())
        except BaseException as error:
            raised.append(error)

    # Keras remembers, a thread, which variables are still to be filled, and would fill these at the next occasion.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]
