"""Exports a model as a program that JAX runs without mat-jax, on CPUs, GPUs and TPUs.

The folder's README says how to run it, its manifest which versions of JAX read it.
"""

import argparse
import sys

from mat_jax.exporting.program import export_program

HELP = 'export a model as a program'
# Arguments that may be addresses in buckets.
IN_BUCKET = ('model', 'output')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of the command."""
  parser.add_argument('model', help='a workdir, a converted, packed or saved model, a step '
                      'directory, or the name of a shipped model')
  parser.add_argument('output', help='folder to create')


def run(values: argparse.Namespace) -> None:
  """Runs the command; UserError if there is no model, or the folder cannot be written."""
  export_program(values.model, values.output)
  print(f'Exported {values.model} into {values.output}.', file=sys.stderr)
