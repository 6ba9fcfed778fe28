"""Runs main.py with several command lines; run by `main_test`.

  python -m tests.support.main_worker '{"name": ["--config=configs/tiny.py", ...], ...}'

Each is a process of its own, forked when everything is imported. The last line is JSON: name ->
what it printed, and its exit code.
"""

import json
import os
import sys
import tempfile
import traceback

from absl import app

import main


def _run(arguments):
  """Output and exit code of a command line."""
  with tempfile.TemporaryFile() as output:
    child = os.fork()
    if not child:
      for stream in (1, 2):
        os.dup2(output.fileno(), stream)
      _start(arguments)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    output.seek(0)
    return output.read().decode(), code


def _start(arguments):
  sys.argv = ['main.py', *arguments]
  code = 0
  try:
    app.run(main.main, flags_parser=main.parse_flags)
  except SystemExit as ended:
    code = ended.code or 0
  except BaseException:
    traceback.print_exc()
    code = 1
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
  os._exit(code)


if __name__ == '__main__':
  print(json.dumps({name: _run(arguments) for name, arguments in json.loads(sys.argv[1]).items()}))
