"""Batch normalization for training on JAX: exact statistics, and two messages per layer where devices share a batch.

Differentiated by JAX, Keras' layer reads its input more often than needed, and on several devices it sends four
messages per layer and step: first the mean, then mean and variance, and as many for the gradient. On CPUs each message
waits for the threads that compute, so the number of messages matters, not their size. Here every device computes the
mean and variance of its own rows in two passes, as exactly as on one device. The devices exchange both in one message,
and the two sums of the gradient in another.

Sources: Ioffe & Szegedy 2015, arXiv:1502.03167, section 3 (the gradient); Chan, Golub & LeVeque 1979, "Updating
formulae and a pairwise algorithm for computing sample variances" (combining the variances of parts).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.sharding import Mesh, PartitionSpec


class JaxBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization over the last axis, with the same results as Keras' layer except for rounding.

    Attributes:
        per_device: Whether each device normalizes its rows by their own statistics. The mean of these is stored.
    """

    per_device = False

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        inputs = jnp.asarray(inputs)
        channels = inputs.shape[-1]
        scale = self.gamma.value if self.scale else jnp.ones(channels)
        offset = self.beta.value if self.center else jnp.zeros(channels)
        mesh = _mesh(len(inputs))
        normalized = _normalized_per_device if self.per_device and mesh is not None else _normalized
        outputs, mean, variance = normalized(mesh, self.epsilon, inputs, scale, offset)
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1.0 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1.0 - keep))
        return outputs


def _mesh(rows: int) -> Mesh | None:
    """The devices that share a batch; None for one device, or where the rows do not divide evenly among them."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return None
    mesh = distribution.device_mesh.backend_mesh
    return mesh if mesh.size > 1 and rows % mesh.size == 0 else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normalized(mesh: Mesh | None, epsilon: float, inputs: Any, scale: Any, offset: Any) -> tuple[Any, Any, Any]:
    """Returns the normalized inputs, in their dtype, and mean and variance of the batch, float32 [channels]."""
    return _forward(mesh, epsilon, inputs, scale, offset)[0]


def _forward(mesh: Mesh | None, epsilon: float, inputs: Any, scale: Any, offset: Any) -> tuple[Any, Any]:
    mean, variance = _statistics(mesh, inputs)
    inverse = jax.lax.rsqrt(variance + epsilon)
    outputs = (inputs.astype(jnp.float32) - mean) * (inverse * scale) + offset
    return (outputs.astype(inputs.dtype), mean, variance), (inputs, mean, inverse, scale)


def _backward(mesh: Mesh | None, epsilon: float, kept: Any, gradients: Any) -> tuple[Any, Any, Any]:
    inputs, mean, inverse, scale = kept
    gradient = gradients[0].astype(jnp.float32)  # no loss depends on the statistics themselves
    of_offset, with_inputs = _sums(mesh, gradients[0], inputs, mean)
    of_scale = with_inputs * inverse
    count = inputs.size // inputs.shape[-1]
    normalized = (inputs.astype(jnp.float32) - mean) * inverse
    of_inputs = (gradient - of_offset / count - normalized * (of_scale / count)) * (inverse * scale)
    return of_inputs.astype(inputs.dtype), of_scale, of_offset


_normalized.defvjp(_forward, _backward)


def _normalized_per_device(mesh: Mesh, epsilon: float, inputs: Any, scale: Any, offset: Any) -> tuple[Any, Any, Any]:
    (axis,) = mesh.axis_names

    def of_device(rows: Any, scale: Any, offset: Any) -> tuple[Any, Any, Any]:
        # Each device has its own gradients of scale and offset, and their sum is the gradient of the batch.
        own = [jax.lax.pcast(value, axis, to="varying") for value in (scale, offset)]
        outputs, mean, variance = _normalized(None, epsilon, rows, *own)
        return outputs, jax.lax.pmean(mean, axis), jax.lax.pmean(variance, axis)

    whole, split = PartitionSpec(), PartitionSpec(axis)
    specs = {"in_specs": (split, whole, whole), "out_specs": (split, whole, whole)}
    return jax.shard_map(of_device, mesh=mesh, **specs)(inputs, scale, offset)


def _statistics(mesh: Mesh | None, inputs: Any) -> tuple[Any, Any]:
    """Mean and variance of every channel over the whole batch."""

    def of_rows(rows: Any) -> Any:
        pixels = rows.astype(jnp.float32)
        axes = tuple(range(rows.ndim - 1))
        mean = pixels.mean(axes)
        return jnp.stack([mean, jnp.square(pixels - mean).mean(axes)])

    if mesh is None:
        return tuple(of_rows(inputs))
    (axis,) = mesh.axis_names
    exchange = jax.shard_map(
        lambda rows: jax.lax.all_gather(of_rows(rows), axis),
        mesh=mesh,
        in_specs=PartitionSpec(axis),
        out_specs=PartitionSpec(),
        check_vma=False,  # it cannot tell that every device gathers the same values
    )
    means, variances = jnp.moveaxis(exchange(inputs), 1, 0)  # each [devices, channels]
    mean = means.mean(0)
    return mean, (variances + jnp.square(means - mean)).mean(0)


def _sums(mesh: Mesh | None, gradient: Any, inputs: Any, mean: Any) -> tuple[Any, Any]:
    """Sums over the whole batch, per channel: of the gradient, and of its product with the centred inputs."""

    def of_rows(gradient: Any, inputs: Any, mean: Any) -> Any:
        gradient = gradient.astype(jnp.float32)
        axes = tuple(range(inputs.ndim - 1))
        return jnp.stack([gradient.sum(axes), (gradient * (inputs.astype(jnp.float32) - mean)).sum(axes)])

    if mesh is None:
        return tuple(of_rows(gradient, inputs, mean))
    (axis,) = mesh.axis_names
    exchange = jax.shard_map(
        lambda *rows: jax.lax.psum(of_rows(*rows), axis),
        mesh=mesh,
        in_specs=(PartitionSpec(axis), PartitionSpec(axis), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    return tuple(exchange(gradient, inputs, mean))
