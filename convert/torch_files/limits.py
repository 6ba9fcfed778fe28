"""The limits of the readers of checkpoints.

Honest files stay far below; `docs/converting.md` says how far, and what each limit
guards against. What it does not bound is bounded by the length of the file.
"""

# Of one pickle.
OPERATIONS = 2_000_000
TEXT = 64 << 20  # bytes of all names and texts together; long ones, which stay in the file, aside
LINE = 4096  # bytes of a name, text or number that ends with its line
INTEGER = 1024  # bytes; 2**resolution takes resolution / 8, and Python prints 4300 digits at most
KEY = 1 << 32  # integers as keys of dicts stay below

# Of the structure in a file.
PICKLE = 64 << 20  # bytes in a zip archive, where it is read whole
DEPTH = 32  # of modules, constructor arguments and wrappers inside each other
ENTRIES = 20_000  # modules, tensors and constructor arguments of a network each
NAME = 200  # characters of a tensor or module inside its module

# Of the tensors.
DIMENSIONS = 64  # as many as NumPy has
SIZE = 1 << 63  # their sides, strides and offsets stay below, as PyTorch's own do
REPEATS = 4  # bytes of all tensors of a file, in bytes of the file,
SMALL = 64 << 20  # or this many if that is more

# Of the networks.
RESOLUTION = 4096
MAPPING_LAYERS = 1000
