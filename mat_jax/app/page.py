"""What happens on the page: each handler gives files and numbers to `jobs`, and shows the result."""

from collections.abc import Callable
import dataclasses
import functools
import html
import os
import secrets
import shutil
import tempfile
from typing import Any

import gradio as gr

from mat_jax.app import jobs, layout
from mat_jax.app.jobs import Marks, Original, Result, Results
from mat_jax.errors import UserError
from mat_jax.inference.image_files import FileOptions
from mat_jax.inference.inpainter import Inpainter
from mat_jax.inference.matching import stem
from mat_jax.inference.options import InpaintOptions
from mat_jax.inference.variants import Distance

_MAX_SEED = 1_000_000
_MAX_WAITING = 20
_WHOLE = layout.VIEWS[0]


@dataclasses.dataclass(frozen=True)
class Session:
  """What one visitor has on the page.

  Attributes:
    folder: of all files, removed when the page is left.
    original: the picture, None at first.
    results: of the last run.
    chosen: number of the result that is looked at.
  """

  folder: str
  original: Original | None = None
  results: Results | None = None
  chosen: int = 0

  @property
  def result(self) -> Result:
    """The one that is looked at; UserError if there is none."""
    if self.results is None:
      raise UserError('there is no result yet; press Fill first')
    return self.results.results[self.chosen]


def build(inpainter: Inpainter, distance: Distance, root: str, files: FileOptions) -> gr.Blocks:
  """The page, not yet served.

  Args:
    inpainter: the model.
    distance: between completions, to find the one that is closest to the others.
    root: folder for the files of all visitors.
    files: the limit of pixels.
  """
  with gr.Blocks(title='mat-jax', analytics_enabled=False) as blocks:
    session = gr.State(None, delete_callback=_forget)
    parts = layout.build(stem(inpainter.checkpoint.path), inpainter.resolution, session)
    _connect(parts, _Handlers(inpainter, distance, root, files, parts))
  # The API must not get round the queue, which lets in one job at a time.
  blocks.queue(max_size=_MAX_WAITING, api_open=False)
  return blocks


def _forget(session: Session | None) -> None:
  if session:
    shutil.rmtree(session.folder, ignore_errors=True)


def _connect(parts: layout.Layout, handlers: '_Handlers') -> None:
  """Says which handler answers to what."""
  job = {'concurrency_limit': 1, 'concurrency_id': 'job'}
  loaded = [parts.session, parts.about, parts.editor, parts.outcome, parts.mask, parts.shown]
  marks = [parts.editor, parts.mask, parts.meaning, parts.grow]
  seen = [parts.session, parts.compare, parts.save, parts.record]
  gr.on([parts.picture.upload, parts.picture.clear], handlers.load, [parts.session, parts.picture],
        loaded, api_name='load', **job)
  parts.check.click(handlers.check, [parts.session, *marks],
                    [parts.shown, parts.shown_mask, parts.mask_file], api_name='mask', **job)
  parts.run.click(
      handlers.fill, [parts.session, *marks, parts.samples, parts.seed, parts.keep_seed, parts.psi,
                      *parts.options.values()],
      [*seen, parts.seed, parts.outcome, parts.notices, parts.gallery, parts.view, parts.spread,
       parts.disagreement], api_name='fill', scroll_to_output=True, **job)
  parts.gallery.select(handlers.choose, [parts.session, parts.view], seen,
                       api_visibility='private', show_progress='hidden')
  parts.view.change(handlers.look, [parts.session, parts.view], [parts.compare],
                    api_visibility='private', show_progress='hidden')
  parts.go_on.click(handlers.go_on, [parts.session], [*loaded, parts.picture], api_name='go_on',
                    **job)


def _shows_mistakes(handler: Callable[..., Any]) -> Callable[..., Any]:
  """Shows a UserError as its sentence, without folders and without a traceback."""

  @functools.wraps(handler)
  def wrapped(self: '_Handlers', *args, **kwargs):
    try:
      return handler(self, *args, **kwargs)
    except UserError as error:
      raise gr.Error(self.text(str(error)), print_exception=False) from error

  return wrapped


class _Handlers:
  """The handlers; each returns new values of components."""

  def __init__(self, inpainter: Inpainter, distance: Distance, root: str, files: FileOptions,
               parts: layout.Layout):
    self._inpainter, self._distance = inpainter, distance
    self._root, self._files, self._parts = root, files, parts

  def text(self, sentence: str) -> str:
    """A sentence as HTML, without the folders of visitors."""
    return html.escape(jobs.without_folders(sentence, self._root), quote=False)

  def load(self, session: Session | None, path: str | None) -> dict[Any, Any]:
    """Takes an uploaded picture; one that cannot be read leaves the page without a picture."""
    session = session or Session(tempfile.mkdtemp(dir=self._root))
    try:
      return self._loaded(session, path)
    except UserError as error:
      told = self.text(str(error))
      gr.Warning(told)
      return {**self._loaded(session, None), self._parts.about: f'No picture: {told}.'}

  @_shows_mistakes
  def go_on(self, session: Session | None) -> dict[Any, Any]:
    """Makes the chosen result the picture."""
    session = self._open(session)
    path = session.result.path
    return {**self._loaded(session, path), self._parts.picture: path}

  def _loaded(self, session: Session, path: str | None) -> dict[Any, Any]:
    """Another picture, or none, takes the place of everything before it."""
    parts = self._parts
    original = jobs.load(path, session.folder, self._files.max_pixels) if path else None
    about = 'No picture yet.'
    editor: dict[str, Any] | None = None
    if original:
      name = self.text(os.path.basename(original.path))
      about = f'**{name}**: {original.about}.'
      if original.preview_size != original.size:
        about += ' You draw on a copy of {} × {}.'.format(*original.preview_size)
      editor = {'background': original.preview, 'layers': [], 'composite': None}
    return {parts.session: Session(session.folder, original), parts.about: about,
            parts.editor: editor, parts.outcome: gr.update(visible=False), parts.mask: None,
            parts.shown: gr.update(visible=False)}

  @_shows_mistakes
  def check(self, session: Session | None, drawn: dict[str, Any] | None, mask: str | None,
            meaning: str, grow: int) -> dict[Any, Any]:
    """Shows the hole, and makes a mask file of it."""
    original = self._original(session)
    hole = jobs.hole_of(original, _marks(drawn, mask, meaning, grow), self._files, self._say)
    return {self._parts.shown: gr.update(visible=True),
            self._parts.shown_mask: jobs.show_hole(original, hole),
            self._parts.mask_file: jobs.save_mask(original, hole)}

  @_shows_mistakes
  def fill(self, session: Session | None, drawn: dict[str, Any] | None, mask: str | None,
           meaning: str, grow: int, samples: int, seed: int, keep_seed: bool, psi: float,
           *options: Any, progress=gr.Progress()) -> dict[Any, Any]:  # noqa: B008
    """Completes the picture; `options` are those of `Layout.options`, in their order."""
    original = self._original(session)
    parts, done = self._parts, 0
    seed = int(seed or 0) if keep_seed else secrets.randbelow(_MAX_SEED)
    chosen = InpaintOptions(seed=seed, num_samples=int(samples), truncation_psi=psi,
                            **dict(zip(parts.options, options, strict=True)))

    def on_window(total: int) -> None:
      nonlocal done
      done += 1
      progress((done, total), desc='Filling', unit='windows')

    progress(0, desc='Starting; the first run takes longest')
    results = jobs.fill(self._inpainter, self._distance, original,
                        _marks(drawn, mask, meaning, grow), chosen, self._files, on_window)
    session = dataclasses.replace(self._open(session), results=results, chosen=0)
    notices = ''.join(f'- {self.text(notice).rstrip(".")}.\n' for notice in results.notices)
    return {**self._seen(session, _WHOLE), parts.seed: seed, parts.outcome: gr.update(visible=True),
            parts.notices: notices, parts.gallery: _gallery(results),
            parts.view: gr.update(value=_WHOLE, visible=results.before.detail is not None),
            parts.spread: gr.update(visible=results.disagreement is not None),
            parts.disagreement: results.disagreement}

  @_shows_mistakes
  def choose(self, session: Session | None, view: str, event: gr.SelectData) -> dict[Any, Any]:
    """Takes a variant to compare and to save."""
    return self._seen(dataclasses.replace(self._open(session), chosen=event.index), view)

  @_shows_mistakes
  def look(self, session: Session | None, view: str) -> dict[Any, Any]:
    """Shows another part of it."""
    session = self._open(session)
    return {self._parts.compare: self._seen(session, view)[self._parts.compare]}

  def _seen(self, session: Session, view: str) -> dict[Any, Any]:
    """One result, to compare and to save."""
    result = session.result
    assert session.results is not None
    both = session.results.before, result.views
    pair = [views.whole if view == _WHOLE else views.detail or views.whole for views in both]
    return {self._parts.session: session, self._parts.compare: tuple(pair),
            self._parts.save: result.path, self._parts.record: result.record}

  def _open(self, session: Session | None) -> Session:
    if session is None:
      raise UserError('there is no picture; load one first')
    return session

  def _original(self, session: Session | None) -> Original:
    original = self._open(session).original
    if original is None:
      raise UserError('there is no picture; load one first')
    return original

  def _say(self, sentence: str) -> None:
    gr.Info(self.text(sentence))


def _marks(drawn: dict[str, Any] | None, mask: str | None, meaning: str, grow: int) -> Marks:
  return Marks(drawn['layers'] if drawn else (), mask, meaning, int(grow))


def _gallery(results: Results) -> gr.Gallery:
  """The variants with their seeds."""
  views = []
  for number, result in enumerate(results.results):
    closest = ' · closest' if number == 0 and len(results.results) > 1 else ''
    views.append((result.views.detail or result.views.whole, f'seed {result.seed}{closest}'))
  return gr.Gallery(value=views, selected_index=0)
