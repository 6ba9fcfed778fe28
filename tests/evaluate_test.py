import json
import os

import numpy as np
from PIL import Image
import pytest

from eval import evaluate
from input_pipeline import stream
from mat_jax import checkpoint, settings
from mat_jax.errors import UserError


def test_writes_json_markdown_events_and_a_picture(trained, capsys):
  workdir, config = trained
  evaluate.evaluate(config, workdir)
  folder = os.path.join(workdir, 'eval')
  with open(os.path.join(folder, 'metrics.json'), encoding='utf-8') as file:
    report = json.load(file)
  assert report['step'] == 4 and set(report['summaries']) == {'MAT', 'mean colour'}
  psnr = report['summaries']['MAT']['psnr_hole']
  assert psnr['n'] == 5 and psnr['low'] <= psnr['mean'] <= psnr['high']
  printed = capsys.readouterr().out
  assert '| mean colour |' in printed and 'comparison.png' in printed
  picture = Image.open(os.path.join(folder, 'comparison.png'))
  assert picture.size == (2 * (4 * 65 - 1), 2 * (5 * 65 - 1))
  assert any(name.startswith('events') for name in os.listdir(folder))


def test_the_result_does_not_depend_on_the_batch(trained):
  workdir, config = trained
  found = checkpoint.restore_ema(workdir)
  generator = settings.generator_from_config(config.model)
  first = evaluate.run(generator, found.variables, config, config.eval.split).metrics
  config = config.copy_and_resolve_references()
  config.eval.batch_size = 3
  second, pictures, unreadable = evaluate.run(
      generator, found.variables, config, config.eval.split, 2)
  assert first['MAT']['psnr'].shape == (5, 2) and len(pictures['image']) == 2
  assert unreadable == 0
  assert np.any(pictures['image'][0] != pictures['image'][1])
  for system, metrics in first.items():
    for name, values in metrics.items():
      np.testing.assert_allclose(second[system][name], values, rtol=1e-3, err_msg=name)


def test_unreadable_images_are_left_out_and_counted(trained, tmp_path, monkeypatch, capsys):
  workdir, config = trained
  monkeypatch.setattr(stream, '_MAX_UNREADABLE', 0.3)
  for i in range(5):
    Image.new('RGB', (64, 64), (40 * i, 0, 0)).save(tmp_path / f'{i}.png')
  (tmp_path / '2.png').write_bytes(b'broken')
  config = config.copy_and_resolve_references()
  config.data_dir, config.eval.split = str(tmp_path), 'all'
  found = checkpoint.restore_ema(workdir)
  generator = settings.generator_from_config(config.model)
  results = evaluate.run(generator, found.variables, config, 'all', 9)
  assert results.unreadable == 1
  assert results.metrics['MAT']['psnr'].shape == (4, 2)
  assert np.isfinite(results.metrics['MAT']['l1']).all()
  levels = np.rint((results.pictures['image'][:, 0, 0, 0] + 1) * 127.5).tolist()
  assert levels == [0, 40, 120, 160]
  evaluate.evaluate(config, workdir)
  assert '1 more images could not be read.' in capsys.readouterr().out


def test_mean_colour_fill():
  image = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
  mask = np.ones((2, 4, 4, 1), np.float32)
  mask[0, :2], mask[1] = 0.0, 0.0
  filled = np.asarray(evaluate.mean_colour_fill(image, mask))
  np.testing.assert_allclose(filled[0, 0, 0], image[0, 2:].mean((0, 1)), rtol=1e-5)
  np.testing.assert_array_equal(filled[0, 2:], image[0, 2:])
  np.testing.assert_array_equal(filled[1], 0.0)


def test_validation_gives_named_means(trained):
  workdir, config = trained
  found = checkpoint.restore_ema(workdir)

  class Networks:
    generator = settings.generator_from_config(config.model)

  validate = evaluate.make_validation(config)
  scalars = validate(Networks, found.variables, lambda: False)
  assert {'validation/psnr', 'validation/ssim_hole'} <= set(scalars)
  assert all(np.isfinite(value) for value in scalars.values())
  assert validate(Networks, found.variables, lambda: True) is None, 'it was asked to stop'


def test_mistakes(trained, tmp_path):
  _, config = trained
  with pytest.raises(UserError, match='no checkpoint'):
    evaluate.evaluate(config, str(tmp_path))
  assert not os.listdir(tmp_path)
