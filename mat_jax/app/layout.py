"""What is on the page, from top to bottom, without what happens when it is used."""

import dataclasses
from typing import Any

import gradio as gr

from mat_jax.inference.options import STRATEGIES, InpaintOptions

MAX_SAMPLES = 8
VIEWS = ('whole picture', 'around the hole')
CSS = '''
.gradio-container {max-width: 1120px !important; margin: 0 auto !important}
.step h3 {margin: 0.4em 0 0.1em 0}
.step p {margin: 0; opacity: 0.75}
'''
_BRUSH = ('#e60078', 0.6)  # colour and opacity
_HOLES = [('guess', 'auto'), ('white', 'white'), ('black', 'black')]
_DEFAULTS = InpaintOptions()


@dataclasses.dataclass(frozen=True)
class Layout:
  """The components by what they are for, see the functions below; all of them are Gradio's."""

  session: Any
  picture: Any
  about: Any
  editor: Any
  mask: Any
  meaning: Any
  grow: Any
  check: Any
  shown: Any
  shown_mask: Any
  mask_file: Any
  samples: Any
  seed: Any
  keep_seed: Any
  psi: Any
  options: dict[str, Any]
  run: Any
  outcome: Any
  notices: Any
  gallery: Any
  view: Any
  compare: Any
  save: Any
  record: Any
  go_on: Any
  spread: Any
  disagreement: Any


def build(model: str, resolution: int, session: Any) -> Layout:
  """Lays the components out, inside of `gr.Blocks`.

  Args:
    model: name of the model.
    resolution: of its network, in pixels.
    session: the component that holds what one visitor has loaded.
  """
  gr.Markdown(
      f'# Fill holes in pictures\nMark what is damaged or in the way, and the model `{model}` '
      f'({resolution} pixels) invents what could be there. Everything stays on this computer.')
  parts = {'session': session, **_load_step(), **_mark_step(), **_fill_step()}
  with gr.Column(visible=False) as outcome:
    parts |= _compare_step()
  return Layout(**parts, outcome=outcome)


def _step(title: str, text: str) -> None:
  gr.Markdown(f'### {title}\n{text}', elem_classes='step')


def _load_step() -> dict[str, Any]:
  _step('1 · Load a picture', 'PNG, TIFF, WebP or JPEG, of any size, 8 or 16 bits. The file itself '
        'is filled, not the copy that you see.')
  return {'picture': gr.File(label='Picture', height=130, elem_id='picture'),
          'about': gr.Markdown('No picture yet.', elem_id='about')}


def _mark_step() -> dict[str, Any]:
  _step('2 · Mark what to fill', 'Draw over it, with some pixels to spare. The icons at the left are '
        'brush, eraser and their size; those at the top move, enlarge and undo.')
  parts: dict[str, Any] = {'editor': gr.ImageEditor(
      label='Drawing', elem_id='editor', type='numpy', image_mode='RGBA', format='png', sources=(),
      transforms=(), layers=False, height=620, buttons=['fullscreen'],
      placeholder='Load a picture first',
      brush=gr.Brush(default_size=24, colors=[_BRUSH],
                     default_color=_BRUSH, color_mode='fixed'),
      eraser=gr.Eraser(default_size=24))}
  with gr.Accordion('Masks as files, and a wider hole', open=False):
    with gr.Row():
      parts['mask'] = gr.File(label='Mask of the same size, added to the drawing', height=130,
                              elem_id='mask')
      with gr.Column():
        parts['meaning'] = gr.Radio(_HOLES, value='auto', label='What is hole in the mask file')
        parts['grow'] = gr.Slider(0, 64, value=0, step=1, elem_id='grow',
                                  label='Grow the hole to all sides, in pixels of the picture')
        parts['check'] = gr.Button('Show the hole, and save it as a mask', elem_id='check')
    with gr.Row(visible=False) as shown:
      parts['shown_mask'] = gr.Image(label='What will be filled', format='png', buttons=[],
                                     interactive=False, height=320)
      parts['mask_file'] = gr.File(label='Mask, white is hole', interactive=False, height=110,
                                   elem_id='mask_file')
  parts['shown'] = shown
  return parts


def _fill_step() -> dict[str, Any]:
  _step('3 · Fill', 'Several variants differ in what they invent. The same seed gives the same '
        'result again.')
  with gr.Row():
    parts: dict[str, Any] = {
        'samples': gr.Slider(1, MAX_SAMPLES, value=3, step=1, label='Variants', elem_id='samples'),
        'psi': gr.Slider(0, 1, value=1, step=0.05, label='Variety',
                         info='psi; 0 is the average style'),
        'seed': gr.Number(0, precision=0, minimum=0, label='Seed', elem_id='seed',
                          info='of the first variant, the next has the next seed'),
        'keep_seed': gr.Checkbox(True, label='Keep the seed',
                                 info='otherwise each run draws another')}
  with gr.Accordion('More options', open=False), gr.Row():
    parts['options'] = {
        'strategy': gr.Dropdown(list(STRATEGIES), value=_DEFAULTS.strategy, label='Large holes',
                                info='what the network sees of them'),
        'context': gr.Slider(1, 4, value=_DEFAULTS.context, step=0.1, label='Context',
                             info='side of a window over that of its hole'),
        'max_enlarge': gr.Slider(1, 8, value=_DEFAULTS.max_enlarge, step=0.5, label='Enlarge by',
                                 info='at most, before tiles are used'),
        'feather': gr.Slider(0, 8, value=0, step=1, label='Feather',
                             info='soft border in pixels; changes kept pixels'),
        'seamless': gr.Checkbox(_DEFAULTS.seamless, label='Seamless',
                                info='fit the result to the colours around the hole'),
        'grain': gr.Checkbox(_DEFAULTS.grain, label='Grain', info='add the noise around the hole'),
        'texture': gr.Checkbox(_DEFAULTS.texture, label='Texture',
                               info='from the rest of the picture, for enlarged results')}
  parts['run'] = gr.Button('Fill', variant='primary', size='lg', elem_id='run')
  return parts


def _compare_step() -> dict[str, Any]:
  _step('4 · Compare and save', 'Choose a variant. The first is the one that is closest to all '
        'others, the safest guess. Drag the line to see what it was before.')
  parts = {'notices': gr.Markdown(elem_id='notices'),
           'gallery': gr.Gallery(label='Variants', columns=4, height='auto', allow_preview=False,
                                 object_fit='contain', fit_columns=False, interactive=False,
                                 buttons=[], elem_id='gallery'),
           'view': gr.Radio(list(VIEWS), value=VIEWS[0], show_label=False, container=False,
                            elem_id='view'),
           'compare': gr.ImageSlider(label='Before and after', interactive=False, max_height=620,
                                     buttons=['fullscreen'], elem_id='compare')}
  with gr.Row():
    parts['save'] = gr.DownloadButton('Save the picture in full size', variant='primary',
                                      elem_id='save')
    parts['record'] = gr.DownloadButton('Save how it was made (JSON)', elem_id='record')
    parts['go_on'] = gr.Button('Go on from this one', elem_id='go_on')
  with gr.Accordion('Where the variants disagree', open=False) as spread:
    _step('', 'White: they differ most there, so nothing is known. Black: they agree.')
    parts['disagreement'] = gr.Image(show_label=False, interactive=False, buttons=[], height=400,
                                     elem_id='disagreement')
  return {**parts, 'spread': spread}
