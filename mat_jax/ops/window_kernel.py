"""Window attention as fused Pallas TPU kernels, one for the forward and one for the backward pass.

Left to XLA, the logits of every window and head go to memory and back several times, and so do
queries, keys and values in several layouts: ten times the bytes of the tokens themselves. Here a
step of the Pallas grid loads some windows into the chip's fast memory (VMEM) and computes
everything between tokens and results there; the backward pass recomputes it, as FlashAttention
does (arXiv 2205.14135). Windows are small enough to need no tiling of the logits.

The kernels take the batch of one device. XLA cannot shard them by itself: call them inside
`jax.shard_map`.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

# Tokens of a grid step: enough for the matmuls to fill the chip's matrix units.
_TOKENS = 512


class Weights(NamedTuple):
  """Projections of window attention, each a kernel [C, C] and a bias [1, C].

  Attributes:
    query: from L2-normalised tokens to the queries of all heads, concatenated.
    key: the same for keys.
    value: from tokens to values.
    result: output projection of the concatenated heads.
  """

  query: tuple[jax.Array, jax.Array]
  key: tuple[jax.Array, jax.Array]
  value: tuple[jax.Array, jax.Array]
  result: tuple[jax.Array, jax.Array]


def attend(tokens: jax.Array, weights: Weights, heads: int, bias: np.ndarray | None,
           key_bias: jax.Array | None) -> jax.Array:
  """Attention of every window, queries and keys from L2-normalised tokens.

  Differentiable once, by tokens and weights. On devices other than TPUs the kernels are
  interpreted, which is exact and slow.

  Args:
    tokens: [B, T, C], B = images * windows, windows innermost; T a multiple of 8.
    weights: in the dtype of the matmuls.
    heads: divides C.
    bias: [windows, T, T] added to the logits, values exact in bfloat16, or None.
    key_bias: attention mask, float32 [B, 1, T], added to the logits of every query, or None.

  Returns:
    [B, T, C] in the dtype of the tokens.
  """
  constants = [] if bias is None else [jnp.asarray(bias, jnp.bfloat16)]
  if key_bias is not None:
    constants.append(key_bias)
  return _attend(tokens, weights, tuple(constants),
                 _Case(heads, bias is not None, key_bias is not None))


class _Case(NamedTuple):
  """Static parameters of a kernel, and which biases it takes."""

  heads: int
  bias: bool
  key_bias: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(tokens: jax.Array, weights: Weights, constants: tuple[jax.Array, ...],
            case: _Case) -> jax.Array:
  (result,) = _call(_forward, tokens, (), weights, constants, case,
                    [jax.ShapeDtypeStruct(tokens.shape, tokens.dtype)], _flops(tokens, 4, 2))
  return result


def _attend_forward(tokens, weights, constants, case):
  return _attend(tokens, weights, constants, case), (tokens, weights, constants)


def _attend_backward(case, kept, gradient):
  tokens, weights, constants = kept
  shapes = [jax.ShapeDtypeStruct(tokens.shape, tokens.dtype)]
  shapes += [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in jax.tree.leaves(weights)]
  by_tokens, *by_weights = _call(_backward, tokens, (gradient,), weights, constants, case, shapes,
                                 _flops(tokens, 11, 6))
  by_weights = [g.astype(w.dtype) for g, w in zip(by_weights, jax.tree.leaves(weights),
                                                  strict=True)]
  return by_tokens, jax.tree.unflatten(jax.tree.structure(weights), by_weights), tuple(
      jnp.zeros_like(x) for x in constants)


_attend.defvjp(_attend_forward, _attend_backward)


def _flops(tokens: jax.Array, projections: int, products: int) -> int:
  """FLOPs of matmuls with [C, C] weights and of matmuls among the tokens of a window."""
  b, t, c = tokens.shape
  return 2 * b * t * c * (projections * c + products * t)


def _call(kernel: Callable[..., None], tokens: jax.Array, others: tuple[jax.Array, ...],
          weights: Weights, constants: tuple[jax.Array, ...], case: _Case,
          shapes: list[jax.ShapeDtypeStruct], flops: int) -> Any:
  """Runs a kernel over the windows, some in each grid step.

  Args:
    kernel: takes references to its inputs, then to its results.
    tokens: [B, T, C].
    others: further inputs of that shape.
    weights: whole arrays, the same in every grid step.
    constants: bias and key bias, see `case`.
    case: which of them there are.
    shapes: of the results; those of the tokens' shape are split over the grid like the tokens,
      others are summed over it.
    flops: of the matmuls.

  Returns:
    The results.
  """
  b, t, _ = tokens.shape
  windows = constants[0].shape[0] if case.bias else b
  size = math.gcd(windows, max(1, _TOKENS // t))

  def cut(x: Any) -> pl.BlockSpec:
    blocks = x.shape[0] // size
    return pl.BlockSpec((size, *x.shape[1:]), lambda i: (i % blocks, 0, 0))

  def whole(x: Any) -> pl.BlockSpec:
    return pl.BlockSpec(x.shape, lambda i: (0,) * x.ndim)

  leaves = jax.tree.leaves(weights)
  inputs = [tokens, *others, *leaves, *constants]
  specs = [cut(tokens), *map(cut, others), *map(whole, leaves), *map(cut, constants)]
  moved = sum(x.size * x.dtype.itemsize for x in [*inputs, *shapes])

  def run(interpret: bool) -> Callable[..., Any]:
    return pl.pallas_call(
        functools.partial(kernel, case), grid=(b // size,), in_specs=specs,
        out_specs=[cut(x) if x.shape == tokens.shape else whole(x) for x in shapes],
        out_shape=shapes, interpret=interpret,
        cost_estimate=pl.CostEstimate(flops=flops, bytes_accessed=moved,
                                      transcendentals=case.heads * b * t * t),
        compiler_params=pltpu.CompilerParams(dimension_semantics=('arbitrary',)))

  return lax.platform_dependent(*inputs, tpu=run(False), default=run(True))


def _read(case: _Case, references: tuple[Any, ...]) -> tuple[Weights, jax.Array | None, Any]:
  """Weights as references, the biases of the logits, and the remaining references."""
  weights = Weights(*((references[2 * i], references[2 * i + 1]) for i in range(4)))
  left = list(references[8:])
  added = left.pop(0)[...].astype(jnp.float32) if case.bias else None
  if case.key_bias:
    keys = left.pop(0)[...]
    added = keys if added is None else added + keys
  return weights, added, left


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """Matmul that contracts one axis of each operand, accumulated in float32."""
  return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())),
                         preferred_element_type=jnp.float32)


def _batched(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """`_dot` for every window."""
  return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((0,), (0,))),
                         preferred_element_type=jnp.float32)


def _normalize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """float32 [M, C] -> L2-normalised rows, and the factors that normalised them, 0 for rows of 0."""
  power = jnp.sum(x * x, axis=-1, keepdims=True)
  factor = jnp.where(power > 0.0, lax.rsqrt(jnp.maximum(power, 1e-24)), 0.0)
  return x * factor, factor


def _project(x: jax.Array, part: tuple[Any, Any]) -> jax.Array:
  """[M, C] -> float32 [M, C]."""
  return _dot(x, part[0][...], (1, 0)) + part[1][...].astype(jnp.float32)


def _inputs(weights: Weights, rows: jax.Array, scale: float) -> tuple[jax.Array, ...]:
  """Normalised tokens, queries, keys and values, all [M, C].

  Args:
    weights: as references.
    rows: tokens.
    scale: of the logits.

  Returns:
    Normalised tokens and their factors, float32; queries times the scale, keys and values of all
    heads in the dtype of the tokens.
  """
  unit, factor = _normalize(rows.astype(jnp.float32))
  normalized = unit.astype(rows.dtype)
  projected = (_project(normalized, weights.query) * scale, _project(normalized, weights.key),
               _project(rows, weights.value))
  return unit, factor, *(x.astype(rows.dtype) for x in projected)


class _Heads:
  """Splits rows of tokens into windows and heads, and merges them again."""

  def __init__(self, case: _Case, tokens: Any):
    self.count = case.heads
    self.windows, self.tokens, self.channels = tokens.shape
    self.scale = (self.channels // case.heads)**-0.5

  def cut(self, x: jax.Array, head: int) -> jax.Array:
    """[M, C] -> [windows, T, d]."""
    width = self.channels // self.count
    return x[:, head * width:(head + 1) * width].reshape(self.windows, self.tokens, width)

  def join(self, parts: Sequence[jax.Array]) -> jax.Array:
    """[windows, T, d] of each head -> [M, C]."""
    rows = self.windows * self.tokens
    return jnp.concatenate([part.reshape(rows, -1) for part in parts], axis=-1)


def _exponentials(query: jax.Array, key: jax.Array,
                  added: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """Attention weights, float32 [windows, T, T], before the division by their sums."""
  logits = _batched(query, key, (2, 2))
  if added is not None:
    logits += added
  weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  return weights, jnp.sum(weights, axis=-1, keepdims=True)


def _forward(case: _Case, tokens_ref: Any, *references: Any) -> None:
  """Forward pass of some windows."""
  weights, added, (result_ref,) = _read(case, references)
  heads = _Heads(case, tokens_ref)
  rows = tokens_ref[...].reshape(-1, heads.channels)
  dtype = rows.dtype
  _, _, query, key, value = _inputs(weights, rows, heads.scale)
  mixed = []
  for head in range(heads.count):
    exponentials, total = _exponentials(heads.cut(query, head), heads.cut(key, head), added)
    mixed.append(_batched(exponentials.astype(dtype), heads.cut(value, head), (2, 1)) / total)
  result = _project(heads.join(mixed).astype(dtype), weights.result)
  result_ref[...] = result.astype(result_ref.dtype).reshape(result_ref.shape)


def _backward(case: _Case, tokens_ref: Any, gradient_ref: Any, *references: Any) -> None:
  """Backward pass of some windows; gradients of the weights are summed over the grid."""
  weights, added, (by_tokens_ref, *by_weights) = _read(case, references)
  by = Weights(*((by_weights[2 * i], by_weights[2 * i + 1]) for i in range(4)))

  @pl.when(pl.program_id(0) == 0)
  def _() -> None:
    for reference in by_weights:
      reference[...] = jnp.zeros_like(reference)

  heads = _Heads(case, tokens_ref)
  rows = tokens_ref[...].reshape(-1, heads.channels)
  dtype = rows.dtype
  unit, factor, query, key, value = _inputs(weights, rows, heads.scale)
  normalized = unit.astype(dtype)
  gradient = gradient_ref[...].reshape(rows.shape).astype(dtype)
  by_mixed = _dot(gradient, weights.result[0][...], (1, 1)).astype(dtype)
  parts = [_head_gradients(heads.cut(query, head), heads.cut(key, head), heads.cut(value, head),
                           heads.cut(by_mixed, head), added)
           for head in range(heads.count)]
  mixed, by_query, by_key, by_value = map(heads.join, zip(*parts, strict=True))

  def through(part: tuple[Any, Any], by_part: tuple[Any, Any], x: jax.Array,
              change: jax.Array) -> jax.Array:
    """Accumulates the gradients of a projection of x; returns the gradient of x, float32."""
    by_part[0][...] += _dot(x, change.astype(dtype), (0, 0))
    by_part[1][...] += jnp.sum(change, axis=0, keepdims=True)
    return _dot(change.astype(dtype), part[0][...], (1, 1))

  by.result[0][...] += _dot(mixed.astype(dtype), gradient, (0, 0))
  by.result[1][...] += jnp.sum(gradient.astype(jnp.float32), axis=0, keepdims=True)
  by_unit = (through(weights.query, by.query, normalized, by_query * heads.scale)
             + through(weights.key, by.key, normalized, by_key))
  along = jnp.sum(by_unit * unit, axis=-1, keepdims=True)
  by_rows = (through(weights.value, by.value, rows, by_value)
             + (by_unit - unit * along) * factor)
  by_tokens_ref[...] = by_rows.astype(by_tokens_ref.dtype).reshape(by_tokens_ref.shape)


def _head_gradients(query: jax.Array, key: jax.Array, value: jax.Array, by_mixed: jax.Array,
                    added: jax.Array | None) -> tuple[jax.Array, ...]:
  """A head's weighted sum of the values, and the gradients of query, key and value.

  All float32 [windows, T, d]; `by_mixed` is the gradient of the first.
  """
  attention, total = _exponentials(query, key, added)
  attention /= total
  narrow = attention.astype(query.dtype)
  by_attention = _batched(by_mixed, value, (2, 2))
  by_logits = attention * (
      by_attention - jnp.sum(by_attention * attention, axis=-1, keepdims=True))
  by_logits = by_logits.astype(query.dtype)
  return (_batched(narrow, value, (2, 1)), _batched(by_logits, key, (2, 1)),
          _batched(by_logits, query, (1, 1)), _batched(narrow, by_mixed, (1, 1)))
