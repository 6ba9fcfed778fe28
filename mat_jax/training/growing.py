"""Progressive growing: the networks of a run from those of a lower resolution.

As in Karras et al. (arXiv 1710.10196), a network learns the coarse structure at a low resolution,
where a step costs a fraction, and gets blocks for the next one; here without fading them in.
"""

from collections.abc import Sequence
from typing import Any

import jax
from orbax.checkpoint import tree as tree_lib

Tree = Any


def grow(fresh: Tree, found: Tree) -> tuple[Tree, Sequence[str]]:
  """Takes over the arrays that have the same name and shape.

  Args:
    fresh: networks of the new resolution, a tree of arrays.
    found: those of the lower one.

  Returns:
    The tree of `fresh` with the arrays of `found` where both have them, on the host, and the
    names of the others, which stay fresh.
  """
  fresh, found = (tree_lib.to_flat_dict(tree) for tree in (fresh, found))
  taken = {name: found[name] if name in found and found[name].shape == array.shape else array
           for name, array in fresh.items()}
  new = ['.'.join(map(str, name)) for name in fresh if taken[name] is fresh[name]]
  return tree_lib.from_flat_dict(jax.device_get(taken)), new
