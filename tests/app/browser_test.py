"""The page in a real browser: Chromium without a window, where it is installed."""

import shutil

import numpy as np
from PIL import Image
import pytest

from mat_jax.pictures import pictures
from mat_jax.pictures.pictures import Picture
from tests.support import picture_files

_PATIENCE = 300_000  # ms; a browser without a graphics card draws slowly
_BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')


@pytest.fixture
def view(address):
  """A page of the browser, and the hosts and errors that it met."""
  api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
  browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
  if browser is None:
    pytest.skip('Chromium is not installed')
  with api.sync_playwright() as driver:
    chromium = driver.chromium.launch(executable_path=browser, args=['--no-sandbox'])
    page = chromium.new_page(viewport={'width': 1280, 'height': 1000})
    page.set_default_timeout(_PATIENCE)
    hosts, failed = set(), []
    page.on('request', lambda request: hosts.add(request.url.split('/')[2]))
    page.on('response', lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    page.goto(address)
    page.wait_for_selector('#run')
    yield page, hosts, failed
    chromium.close()


def _draw(page, *ends):
  """Draws a line with the mouse, in pixels from the middle of the canvas."""
  canvas = page.locator('#editor canvas').first
  canvas.scroll_into_view_if_needed()
  box = canvas.bounding_box()
  places = [(box['x'] + box['width'] / 2 + x, box['y'] + box['height'] / 2 + y) for x, y in ends]
  page.mouse.move(*places[0])
  page.mouse.down()
  for place in places[1:]:
    page.mouse.move(*place, steps=10)
  page.mouse.up()


def _save(page, selector, path):
  """Presses what downloads a file; returns its name."""
  with page.expect_download() as found:
    page.click(selector)
  found.value.save_as(path)
  return found.value.suggested_filename


@pytest.mark.slow
def test_load_draw_fill_compare_and_save(view, address, tmp_path):
  page, hosts, failed = view
  image, result, mask = (str(tmp_path / name) for name in ('scan.png', 'result.png', 'mask.png'))
  before = picture_files.smooth(320, 240).astype(np.uint16) * 257
  pictures.write_picture(image, Picture(before))
  page.set_input_files('#picture input[type=file]', image)
  page.wait_for_function("document.querySelector('#about').innerText.includes('240 × 320')")
  page.wait_for_function("document.querySelector('#editor').innerText.includes('%')")
  page.wait_for_timeout(3000)  # the picture moves into the canvas
  _draw(page, (-30, -20), (30, 20))

  page.click('text=Masks as files')
  page.click('#check')
  page.wait_for_selector('#mask_file a[download]')
  assert _save(page, '#mask_file a[download]', mask) == 'scan_mask.png'
  hole = np.asarray(Image.open(mask)) == 255
  assert hole.shape == (320, 240) and hole[160, 120] and 0 < hole.mean() < 0.2

  page.click('#run')
  page.wait_for_selector('#gallery img', state='attached')  # loaded when it is scrolled to
  assert page.locator('#gallery img').count() == 3
  page.locator('#gallery button.thumbnail-item').nth(1).click()
  page.wait_for_selector('#compare img')
  assert page.locator('#compare img').count() == 2
  page.wait_for_timeout(3000)
  name = _save(page, '#save', result)
  assert name.startswith('scan_seed') and name.endswith('.png')
  record = page.text_content('#gallery button.thumbnail-item >> nth=1')
  assert name.removeprefix('scan_seed').removesuffix('.png') in record
  after = pictures.read_picture(result).pixels
  assert after.dtype == np.uint16
  np.testing.assert_array_equal(after[~hole], before[~hole])
  assert (after[hole] != before[hole]).any(-1).mean() > 0.9

  page.click('#go_on')
  page.wait_for_function(f"document.querySelector('#about').innerText.includes('{name}')")
  assert not page.is_visible('#save')
  assert hosts == {address.split('/')[2]} and not failed
