"""Reads a pickle without importing, calling or building anything that it names.

A pickle is a program for a small stack machine, and `pickle.Unpickler` lets that
program import any module and call any function. The machine here runs the same
operations (https://docs.python.org/3/library/pickletools.html) but has no such
powers: it returns a tree of plain values in which a global is a `Global`, the
result of a call or of a class is an inert `Call`, and long bytes and texts stay in
the file as a `Blob`. What the tree means is for the caller to decide. A global that
the caller does not list ends the reading at once.

Every length is checked against the bytes that are left before anything is
allocated, and the number of operations is limited, so that a damaged file ends in
a `FormatError` instead of exhausting the machine.
"""

from collections.abc import Callable, Collection
import dataclasses
import pickle
import struct
from typing import Any

from convert.torch_files import limits
from convert.torch_files.file_window import Blob, FormatError, Window, brief

_LONG_TEXT = 4096  # bytes; longer ones (source code) stay in the file
_MAX_PROTOCOL = 5
_HALF_RANGE = 1 << (8 * limits.INTEGER - 1)  # of the signed integers of limits.INTEGER bytes

SET = 'builtins.set'


class RefusedGlobalError(FormatError):
  """The pickle refers by a well-formed name to a global that the caller did not list."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
  """A `module.name` that the pickle refers to; nothing was imported."""

  name: str


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class Call:
  """What the pickle would get by calling a global; nothing was called.

  Attributes:
    callee: `module.name`.
    args: positional arguments.
    state: what the pickle hands to the object's `__setstate__` or `__dict__`.
    items: what it stores in the object as in a dict.
  """

  callee: str
  args: tuple[Any, ...]
  state: Any = None
  items: dict[Any, Any] | None = None


def load(window: Window, allowed: Collection[str],
         persistent: Callable[[Any], Any] | None = None) -> Any:
  """Reads one pickle.

  Args:
    window: where it starts; afterwards stands behind its last byte.
    allowed: the globals that it may refer to, as `module.name`.
    persistent: gives the value of a persistent id; None if there may be none.

  Returns:
    A tree of None, bool, int, float, str, tuple, list, dict, `Global`, `Blob`,
    `Call` and what `persistent` returned. It may share nodes and contain itself.

  Raises:
    FormatError: the pickle is damaged, or it refers to another global, which is a
      `RefusedGlobalError` where the name looks like one.
  """
  machine = _Machine(window, allowed, persistent)
  try:
    return machine.run()
  except (IndexError, ValueError) as error:  # empty stack, undecodable text or number
    raise FormatError(f'has a damaged pickle ({brief(error)})') from error


def is_key(value: Any) -> bool:
  """Whether a value from a file may be hashed.

  The hash of a deeply nested tuple would overflow the C stack, and giant numbers can be
  chosen so that their hashes are all the same.
  """
  return isinstance(value, str) or (isinstance(value, int) and abs(value) < limits.KEY)


class _Machine:
  """The stack machine: values, marks and memo of one pickle."""

  def __init__(self, window: Window, allowed: Collection[str],
               persistent: Callable[[Any], Any] | None):
    self.window, self.persistent = window, persistent
    self.stack: list[Any] = []
    self.marks: list[list[Any]] = []
    self.memo: dict[int, Any] = {}
    self._allowed = allowed
    self._text_left = limits.TEXT

  def run(self) -> Any:
    for _ in range(limits.OPERATIONS):
      code = self.window.read(1)
      if code == pickle.STOP:
        return self.stack.pop()
      operation = _OPERATIONS.get(code)
      if operation is None:
        raise FormatError(f'has a pickle operation that checkpoints do not use ({code!r})')
      operation(self)
    raise FormatError(f'has a pickle of more than {limits.OPERATIONS} operations')

  def number(self, layout: struct.Struct) -> int:
    return layout.unpack(self.window.read(layout.size))[0]

  def text(self, length: int, encoding: str = 'utf-8') -> str | Blob:
    if length > _LONG_TEXT:
      return self.window.skip(length)
    self._count_text(length)
    return self.window.read(length).decode(encoding)

  def line(self) -> str:
    text = self.window.line()
    self._count_text(len(text))
    return text

  def _count_text(self, length: int) -> None:
    self._text_left -= length
    if self._text_left < 0:
      raise FormatError(f'has a pickle with more than {limits.TEXT} bytes of text')

  def find(self, module: Any, name: Any) -> Global:
    if type(module) is not str or type(name) is not str:
      raise FormatError('has a damaged pickle (a global without a name)')
    full_name = f'{module}.{name}'
    if full_name not in self._allowed:
      plausible = all(part.isidentifier() for part in full_name.split('.'))
      raise (RefusedGlobalError if plausible else FormatError)(
          f'refers to {brief(ascii(full_name))}, which such a file has no need of (nothing in '
          'it was run)')
    return Global(full_name)

  def pop_mark(self) -> list[Any]:
    values, self.stack = self.stack, self.marks.pop()
    return values

  def top(self, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(self.stack[-1], kind):
      raise FormatError(f'has a damaged pickle (a {type(self.stack[-1]).__name__} '
                        'in the wrong place)')
    return self.stack[-1]

  def pop(self, kind: type) -> Any:
    self.top(kind)
    return self.stack.pop()

  def recall(self, index: int) -> None:
    if index not in self.memo:
      raise FormatError('has a damaged pickle (a reference to nothing)')
    self.stack.append(self.memo[index])

  def store(self, values: list[Any]) -> None:
    """Puts [key, value, key, value, ...] into the dict on top of the stack."""
    target = self.top((dict, Call))
    if isinstance(target, Call):
      if target.items is None:
        target.items = {}
      target = target.items
    target.update(_pairs(values))


def _pairs(values: list[Any]) -> dict[Any, Any]:
  if len(values) % 2:
    raise FormatError('has a damaged pickle (a key without a value)')
  for key in values[::2]:
    if not is_key(key):
      raise FormatError('has a damaged pickle (a dict with an odd key)')
  return dict(zip(values[::2], values[1::2], strict=True))


def _integer(text: str) -> int | bool:
  if text in ('00', '01'):  # how the oldest protocol writes a bool
    return text == '01'
  value = int(text.removesuffix('L'))  # quick, since a line has few digits
  if not -_HALF_RANGE <= value < _HALF_RANGE:
    raise _giant_integer()
  return value


def _long(machine: _Machine, length: int) -> int:
  if not 0 <= length <= limits.INTEGER:
    raise _giant_integer()
  return int.from_bytes(machine.window.read(length), 'little', signed=True)


def _giant_integer() -> FormatError:
  return FormatError(f'has a pickle with a giant number (more than {limits.INTEGER} bytes)')


_U1, _U2, _U4, _U8 = (struct.Struct(f'<{code}') for code in 'BHIQ')
_S4, _F8 = struct.Struct('<i'), struct.Struct('>d')


def _protocol(machine: _Machine) -> None:
  if machine.number(_U1) > _MAX_PROTOCOL:
    raise FormatError('has a pickle of an unknown protocol')


def _mark(machine: _Machine) -> None:
  machine.marks.append(machine.stack)
  machine.stack = []


def _pop(machine: _Machine) -> None:
  if machine.stack:
    machine.stack.pop()
  else:
    machine.pop_mark()


def _memoize(machine: _Machine, index: int) -> None:
  if not 0 <= index < limits.KEY:
    raise FormatError('has a damaged pickle (a giant number in its memo)')
  machine.memo[index] = machine.stack[-1]


def _tuple_of(machine: _Machine, length: int) -> None:
  if len(machine.stack) < length:
    raise FormatError('has a damaged pickle (an empty stack)')
  machine.stack[-length:] = [tuple(machine.stack[-length:])]


def _append(machine: _Machine, values: list[Any]) -> None:
  machine.top(list).extend(values)


def _set_item(machine: _Machine) -> None:
  value = machine.stack.pop()
  machine.store([machine.stack.pop(), value])


def _add_items(machine: _Machine) -> None:
  values = machine.pop_mark()
  target = machine.top(Call)
  if target.callee != SET or not (target.args and isinstance(target.args[0], list)):
    raise FormatError('has a damaged pickle (elements of no set)')
  target.args[0].extend(values)


def _call(machine: _Machine) -> None:
  args = machine.pop(tuple)
  machine.stack.append(Call(machine.pop(Global).name, args))


def _build(machine: _Machine) -> None:
  state = machine.stack.pop()
  machine.top(Call).state = state


def _stack_global(machine: _Machine) -> None:
  name = machine.stack.pop()
  machine.stack.append(machine.find(machine.stack.pop(), name))


def _instance(machine: _Machine) -> None:
  found = machine.find(machine.line(), machine.line())
  raise FormatError(f'creates a {found.name} in a way that checkpoints do not use')


def _persistent_id(machine: _Machine) -> None:
  if machine.persistent is None:
    raise FormatError('has a persistent id where checkpoints have none')
  machine.stack.append(machine.persistent(machine.stack.pop()))


def _pushing(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
  def operation(machine: _Machine) -> None:
    result = value(machine)  # first, because it may replace the stack by what is below a mark
    machine.stack.append(result)
  return operation


# The values that are pushed; `m` is the machine.
_PUSHED: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.INT: lambda m: _integer(m.line()),
    pickle.LONG: lambda m: _integer(m.line()),
    pickle.BININT: lambda m: m.number(_S4),
    pickle.BININT1: lambda m: m.number(_U1),
    pickle.BININT2: lambda m: m.number(_U2),
    pickle.LONG1: lambda m: _long(m, m.number(_U1)),
    pickle.LONG4: lambda m: _long(m, m.number(_S4)),
    pickle.FLOAT: lambda m: float(m.line()),
    pickle.BINFLOAT: lambda m: m.number(_F8),
    pickle.UNICODE: lambda m: m.line(),
    pickle.SHORT_BINUNICODE: lambda m: m.text(m.number(_U1)),
    pickle.BINUNICODE: lambda m: m.text(m.number(_U4)),
    pickle.BINUNICODE8: lambda m: m.text(m.number(_U8)),
    pickle.SHORT_BINSTRING: lambda m: m.text(m.number(_U1), 'latin-1'),
    pickle.BINSTRING: lambda m: m.text(m.number(_S4), 'latin-1'),
    pickle.SHORT_BINBYTES: lambda m: m.window.skip(m.number(_U1)),
    pickle.BINBYTES: lambda m: m.window.skip(m.number(_U4)),
    pickle.BINBYTES8: lambda m: m.window.skip(m.number(_U8)),
    pickle.BYTEARRAY8: lambda m: m.window.skip(m.number(_U8)),
    pickle.EMPTY_TUPLE: lambda m: (),
    pickle.EMPTY_LIST: lambda m: [],
    pickle.EMPTY_DICT: lambda m: {},
    pickle.EMPTY_SET: lambda m: Call(SET, ([],)),
    pickle.TUPLE: lambda m: tuple(m.pop_mark()),
    pickle.LIST: lambda m: m.pop_mark(),
    pickle.DICT: lambda m: _pairs(m.pop_mark()),
    pickle.FROZENSET: lambda m: Call(SET, (m.pop_mark(),)),
    pickle.GLOBAL: lambda m: m.find(m.line(), m.line()),
    pickle.DUP: lambda m: m.stack[-1],
}

# INST is here to name what it asks for; operations that are missing (OBJ, EXT1,
# PERSID, NEXT_BUFFER, ...) are refused by `run`.
_OPERATIONS: dict[bytes, Callable[[_Machine], object]] = {
    **{code: _pushing(value) for code, value in _PUSHED.items()},
    pickle.PROTO: _protocol,
    pickle.FRAME: lambda m: m.window.read(8),
    pickle.MARK: _mark,
    pickle.POP: _pop,
    pickle.POP_MARK: lambda m: m.pop_mark(),
    pickle.TUPLE1: lambda m: _tuple_of(m, 1),
    pickle.TUPLE2: lambda m: _tuple_of(m, 2),
    pickle.TUPLE3: lambda m: _tuple_of(m, 3),
    pickle.APPEND: lambda m: _append(m, [m.stack.pop()]),
    pickle.APPENDS: lambda m: _append(m, m.pop_mark()),
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: lambda m: m.store(m.pop_mark()),
    pickle.ADDITEMS: _add_items,
    pickle.PUT: lambda m: _memoize(m, _integer(m.line())),
    pickle.BINPUT: lambda m: _memoize(m, m.number(_U1)),
    pickle.LONG_BINPUT: lambda m: _memoize(m, m.number(_U4)),
    pickle.MEMOIZE: lambda m: _memoize(m, len(m.memo)),
    pickle.GET: lambda m: m.recall(_integer(m.line())),
    pickle.BINGET: lambda m: m.recall(m.number(_U1)),
    pickle.LONG_BINGET: lambda m: m.recall(m.number(_U4)),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.INST: _instance,
    pickle.REDUCE: _call,
    pickle.NEWOBJ: _call,
    pickle.BUILD: _build,
    pickle.BINPERSID: _persistent_id,
}
