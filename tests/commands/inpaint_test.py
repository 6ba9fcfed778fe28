import json
import os

import numpy as np
from PIL import Image
import pytest

from mat_jax.commands import inpaint as command
from mat_jax.commands import main
from mat_jax.errors import EXIT_CODE, UserError
from mat_jax.inference.inpainter import Inpainter
from mat_jax.pictures import pictures


@pytest.fixture
def scan(tmp_path):
  """A picture with an ICC profile, and a mask of the other tools: white is hole."""
  rng = np.random.default_rng(0)
  image, mask = str(tmp_path / 'scan.png'), str(tmp_path / 'mask.png')
  Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(
      image, icc_profile=b'profile of a scanner', dpi=(300, 300))
  hole = Image.new('L', (120, 90))
  hole.paste(255, (40, 30, 60, 51))
  hole.save(mask)
  return image, mask


def _run(trained, *arguments):
  command.run(main.parse(['mat-jax', 'inpaint', *arguments, '--model', trained[0]]))


def test_without_a_model_the_shipped_one_is_taken(scan):
  model = main.parse(['mat-jax', 'inpaint', *scan]).model
  assert Inpainter.from_checkpoint(model).resolution == 128


def test_one_completion_goes_into_the_file_that_is_named(trained, scan, tmp_path, capsys):
  image, mask = scan
  output = str(tmp_path / 'result.png')
  _run(trained, image, mask, '-o', output, '--seed=7')
  assert 'white is hole (guessed, as 4% of the mask and 0% of its edge are white)' in (
      capsys.readouterr().err)
  before, after = Image.open(image), Image.open(output)
  assert after.info['icc_profile'] == before.info['icc_profile']
  assert after.info['dpi'] == pytest.approx((300, 300), abs=0.1)
  changed = np.any(np.asarray(before) != np.asarray(after), axis=-1)
  assert changed[30:51, 40:60].mean() > 0.9
  changed[30:51, 40:60] = False
  assert not changed.any()
  with open(str(tmp_path / 'result.json'), encoding='utf-8') as file:
    record = json.load(file)
  assert json.loads(after.text['mat-jax']) == record
  assert record['seed'] == 7 and record['image'] == 'scan.png'
  assert len(record['digest']) == 64 and record['options']['truncation_psi'] == 1.0
  assert [w['kind'] for w in record['windows']] == ['native']
  with pytest.raises(UserError, match='result.png exists'):
    _run(trained, image, mask, '-o', output)
  _run(trained, image, mask, '-o', output, '--overwrite')


def test_several_completions_are_compared(trained, scan, tmp_path, capsys):
  output = str(tmp_path / 'out')
  _run(trained, *scan, '-o', output, '--samples=3', '--seed=4', '--disagreement')
  assert sorted(os.listdir(output)) == sorted(
      [f'scan_seed{seed}.{suffix}' for seed in (4, 5, 6) for suffix in ('png', 'json')]
      + ['scan_disagreement.png'])
  told = capsys.readouterr().err
  assert 'is the closest to all of its completions' in told and '3 of 3 results' in told
  spread = np.asarray(Image.open(os.path.join(output, 'scan_disagreement.png')))
  assert spread.max() == 255 and not spread[:30].any()
  with pytest.raises(UserError, match='scan_disagreement.png exists'):
    _run(trained, *scan, '-o', output, '--samples=3', '--seed=20', '--disagreement')


def test_a_format_that_cannot_hold_the_picture_is_refused_before_the_work(
    trained, scan, tmp_path, monkeypatch):
  image = str(tmp_path / 'deep.tif')
  pictures.write_picture(image, pictures.Picture(np.zeros((90, 120, 3), np.uint16)))
  monkeypatch.setattr(Inpainter, 'complete', None)  # the work
  with pytest.raises(UserError, match='cannot hold 16 bits'):
    _run(trained, image, scan[1], '-o', str(tmp_path / 'result.webp'))


def test_transparency_can_be_the_hole(trained, tmp_path):
  image = str(tmp_path / 'cut.png')
  values = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
  values[..., 3] = 255
  values[20:40, 20:40, 3] = 0
  Image.fromarray(values).save(image)
  output = str(tmp_path / 'out')
  _run(trained, image, '--hole=alpha', '-o', output)
  result = np.asarray(Image.open(os.path.join(output, 'cut_seed0.png')))
  assert np.all(result[..., 3] == 255)
  assert np.any(result[20:40, 20:40, :3] != values[20:40, 20:40, :3])


def test_arguments_that_do_not_fit(trained, scan, tmp_path):
  image, mask = scan
  for arguments, message in [
      ([image], 'give a mask, or --hole=alpha'),
      ([image, mask, '--hole=alpha'], 'give a mask, or --hole=alpha'),
      ([image, mask, '-o', str(tmp_path / 'x.png'), '--samples=2'], 'give a folder'),
      ([image, mask, '-o', image], 'is the picture itself'),
      ([image, mask, '-o', str(tmp_path / 'x.gif')], 'x.gif has no suffix of a format'),
      ([image, mask, '-o', str(tmp_path)], 'among the pictures'),
      ([image, mask, '--samples=0'], 'num_samples is 0')]:
    with pytest.raises(UserError, match=message):
      _run(trained, *arguments)
  assert sorted(os.listdir(tmp_path)) == ['mask.png', 'scan.png']


def test_mistakes_of_the_command_line_are_one_sentence(capsys):
  for arguments, message in [
      ([], 'command'), (['inpaint', 'a', 'b', '--model=m', '--colour'], '--colour'),
      (['inpaint', 'a', 'b', '--model=m', '--hole=red'], 'red')]:
    with pytest.raises(SystemExit) as ended:
      main.parse(['mat-jax', *arguments])
    assert ended.value.code == EXIT_CODE
    told = capsys.readouterr().err
    assert told.count('\n') == 1 and message in told


def test_one_picture_that_cannot_be_read_is_one_sentence(trained, scan, tmp_path, capsys, caplog):
  image, mask = scan
  with open(image, 'r+b') as file:
    file.truncate(os.path.getsize(image) // 3)
  output = str(tmp_path / 'result.png')
  with pytest.raises(UserError, match="^the picture '.*scan.png' cannot be read"):
    _run(trained, image, mask, '-o', output)
  assert 'results are in' not in capsys.readouterr().err and 'scan.png' not in caplog.text
  assert not os.path.exists(output)
