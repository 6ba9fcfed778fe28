"""The largest batch of which the compiler says that it fits a memory, in few compilations."""

from collections.abc import Callable, Sequence

from mat_jax.nn.model_config import GROUP_SIZE


def allowed(limit: int) -> int:
  """The largest batch up to `limit` of which the minibatch standard deviation can make groups."""
  return limit // GROUP_SIZE * GROUP_SIZE if limit >= GROUP_SIZE else max(limit, 0)


def estimate(known: dict[int, int], budget: int) -> int:
  """The largest allowed batch on the line through the two largest known ones.

  Args:
    known: batch -> bytes, two batches or more.
    budget: bytes.
  """
  low, high = sorted(known)[-2:]
  slope = (known[high] - known[low]) / (high - low)
  return allowed(high + int((budget - known[high]) // slope))


def largest(peak: Callable[[int], int], budget: int,
            first: Sequence[int] = (GROUP_SIZE, 2 * GROUP_SIZE)) -> tuple[int, dict[int, int]]:
  """The largest batch within a budget, taking memory to grow with the batch.

  Two batches give a line, and the batch that the line names is compiled too, until the
  estimate is one that has been compiled.

  Args:
    peak: batch -> bytes; costly.
    budget: bytes.
    first: the batches to begin with, two or more.

  Returns:
    The batch, 0 for none, and batch -> bytes of all that were tried.
  """
  known = {batch: peak(batch) for batch in first}
  while True:
    fitting = max((batch for batch, size in known.items() if size <= budget), default=0)
    too_large = [batch for batch, size in known.items() if size > budget]
    guess = max(estimate(known, budget), fitting)
    if too_large:
      guess = min(guess, allowed(min(too_large) - 1))
    if guess == fitting:
      return fitting, known
    known[guess] = peak(guess)
