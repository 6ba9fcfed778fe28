import json
import os
import shutil
import threading
import time

import numpy as np
from PIL import Image
import pytest

from eval import completion, evaluate
from eval.classical import methods
from eval.evaluator import Evaluator
from eval.metrics.measuring import Models
from eval.results import pairs, record
from eval.results.album import Album
from input_pipeline import from_config, stream
from mat_jax.checkpoints import reader, step_directories
from mat_jax.errors import UserError
from mat_jax.nn import model_config
from mat_jax.runtime.storage import disk
from mat_jax.runtime.storage.disk import DamagedError
from tests.support import runs

SYSTEMS = {'MAT', 'mean colour'}
PIXEL_METRICS = {'psnr', 'ssim', 'l1', 'psnr_hole', 'ssim_hole', 'l1_hole'}


@pytest.fixture(scope='module')
def config(trained):
  """Two sets of masks, two masks for each of five images."""
  config = trained[1].copy_and_resolve_references()
  config.eval.mask_preset = 'large+small'
  return config


@pytest.fixture(scope='module')
def evaluated(trained, config, tmp_path_factory):
  """A workdir with the evaluation of another one's checkpoint, and what was printed."""
  workdir = str(tmp_path_factory.mktemp('evaluated'))
  config = config.copy_and_resolve_references()
  config.eval.checkpoint = trained[0]
  evaluate.evaluate(config, workdir)
  return workdir


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict({f'eval.{name}': value for name, value in fields.items()})
  return config


def test_record(evaluated, config):
  found = record.read_last(os.path.join(evaluated, 'eval'))
  assert (found.step, found.split, found.masks_per_image) == (4, 'validation+test', 2)
  assert list(found.mask_sets) == ['large', 'small']
  for group in found.mask_sets.values():
    assert (group.images, group.pairs) == (5, 10)
    assert set(group.metrics) == SYSTEMS
    for metrics in group.metrics.values():
      assert set(metrics) == PIXEL_METRICS | {'lpips_alex', 'lpips_vgg'}
      for summary in metrics.values():
        assert summary.n == 5 and summary.low <= summary.mean <= summary.high
    assert set(group.differences) == {'MAT - mean colour'}
    distances = group.distances['MAT']
    assert list(distances)[:2] == ['kd_vgg16', 'fd_vgg16']
    fd = distances['fd_vgg16']
    assert (fd.n_real, fd.n_fake, fd.dimension) == (5, 10, 512) and fd.value > 0 and fd.note
    assert distances['p_ids_vgg16'].value is None, 'five images say nothing about it'
  assert sum(group.pairs for group in found.bins.values()) == 20


def test_files(evaluated):
  folder = os.path.join(evaluated, 'eval')
  rows = pairs.read_csv(os.path.join(folder, 'per_image.csv'))
  assert len(rows) == 20 and set(rows.metrics) == SYSTEMS
  assert len(set(rows.image.tolist())) == 5 and set(rows.mask.tolist()) == {0, 1}
  found = record.read_last(folder)
  large = rows.where(rows.masks == 'large')
  np.testing.assert_allclose(large.metrics['MAT']['l1'].mean(),
                             found.mask_sets['large'].metrics['MAT']['l1'].mean, rtol=1e-6)
  with open(os.path.join(folder, 'metrics.md'), encoding='utf-8') as file:
    text = file.read()
  assert '\n| mean colour |' in text and '\n| MAT − mean colour |' in text
  assert '## Small masks: 5 images, 10 pairs' in text
  assert Image.open(os.path.join(folder, 'comparison.png')).size == (
      4 * (4 * 33 - 1), 4 * (5 * 33 - 1))
  assert len(record.read_all(folder)) == 1


def test_pictures_are_what_was_measured(evaluated):
  folder = os.path.join(evaluated, 'eval')
  rows = pairs.read_csv(os.path.join(folder, 'per_image.csv'))
  for i in (0, 13):
    name = f'{rows.image_index[i]:05}'
    mask_set = os.path.join(folder, 'pictures', rows.masks[i])
    original = np.asarray(Image.open(os.path.join(folder, 'pictures', 'originals', f'{name}.png')))
    result, mask = (np.asarray(Image.open(os.path.join(mask_set, kind, f'{name}_{rows.mask[i]}.png')))
                    for kind in ('results', 'masks'))
    difference = np.abs(original.astype(float) - result)
    np.testing.assert_allclose(difference.mean() / 255, rows.metrics['MAT']['l1'][i], rtol=1e-6)
    assert not difference[mask > 0].any(), 'kept pixels'
    np.testing.assert_allclose((mask == 0).mean(), rows.hole_ratio[i], atol=1e-6)


def test_events_are_at_the_step_of_the_checkpoint(evaluated):
  folder = os.path.join(evaluated, 'eval')
  for tag in ('eval_large/psnr_hole', 'eval_small/fd_vgg16', 'eval_large_mean_colour/lpips_alex'):
    assert runs.event_steps(folder, tag) == [4]
  tags = runs.events(folder).Tags()['tensors']
  assert 'eval_large/p_ids_vgg16' not in tags, 'a bare 0'
  assert 'eval/image_masked_stage1_result' in tags and 'eval/tables' in tags


def test_again_with_a_baseline(evaluated, trained, config, capsys):
  workdir = shutil.copytree(evaluated, evaluated + '-again')
  evaluate.evaluate(changed(config, checkpoint=trained[0], baseline=evaluated,
                            save_pictures=3), workdir)
  found = record.read_last(os.path.join(workdir, 'eval'))
  difference = found.mask_sets['small'].differences['MAT - baseline']
  np.testing.assert_allclose(difference['lpips_vgg'], (0, 0, 0, 5, 0, 0), atol=1e-8)
  assert len(os.listdir(os.path.join(workdir, 'eval', 'pictures', 'small', 'results'))) == 3
  printed = capsys.readouterr().out
  assert '| MAT − baseline |' in printed and 'masked / mean colour / baseline / MAT' in printed
  rows = np.asarray(Image.open(os.path.join(workdir, 'eval', 'comparison.png')))
  columns = np.split(np.pad(rows, ((0, 0), (0, 4), (0, 0))), 5, axis=1)
  np.testing.assert_array_equal(columns[2][:, :-4], columns[3][:, :-4], 'the same checkpoint')
  with pytest.raises(UserError, match='it lacks 28 of 33, .* evaluate both on the same data'):
    Evaluator(changed(config, split='all')).evaluate(
        reader.restore_ema(trained[0]), 'x', Album(None, 0, 0),
        pairs.read_csv(os.path.join(evaluated, 'eval', 'per_image.csv')))
  with pytest.raises(UserError, match='has seed 0, this one 5; evaluate both alike'):
    evaluate.evaluate(changed(config, checkpoint=trained[0], baseline=evaluated, seed=5), workdir)


@pytest.mark.parametrize('vary', ['all', 'keep_masks'])
def test_several_completions_of_a_pair(trained, config, vary):
  def evaluated_with(**fields):
    options = changed(config, mask_preset='large', features='', lpips='alex', **fields)
    return Evaluator(options).evaluate(reader.restore_ema(trained[0]), 'x', Album(None, 0, 0), None)

  record_of_one, pairs_of_one = evaluated_with()
  record_of_three, pairs_of_three = evaluated_with(samples_per_mask=3, vary=vary)
  assert 'samples_per_mask' not in record_of_one.settings
  assert record_of_three.settings['samples_per_mask'] == 3
  one, three = pairs_of_one.metrics['MAT'], pairs_of_three.metrics['MAT']
  assert set(three) - set(one) == {'diversity_alex', 'best_lpips_alex'}
  # Of the first completion, of which another program may round a value to the next of 256.
  np.testing.assert_allclose(three['psnr'], one['psnr'], rtol=1e-4)
  assert (three['best_lpips_alex'] <= three['lpips_alex'] + 1e-6).all()
  assert (three['diversity_alex'] > 0).all()


@pytest.fixture(scope='module')
def beside_classical(trained, config, tmp_path_factory):
  """A workdir with a fast evaluation beside classical methods."""
  workdir = str(tmp_path_factory.mktemp('beside-classical'))
  evaluate.evaluate(changed(config, checkpoint=trained[0], classical='telea+biharmonic',
                            features='', lpips='', mask_preset='large'), workdir)
  return workdir


def test_classical_methods_are_measured_beside_mat(beside_classical, evaluated):
  folder = os.path.join(beside_classical, 'eval')
  group = record.read_last(folder).mask_sets['large']
  assert list(group.metrics) == ['MAT', 'mean colour', 'telea', 'biharmonic']
  assert list(group.differences) == ['MAT - mean colour', 'MAT - telea', 'MAT - biharmonic']
  rows, without = (pairs.read_csv(os.path.join(path, 'per_image.csv'))
                   for path in (folder, os.path.join(evaluated, 'eval')))
  ours, theirs = (rows.metrics[system]['psnr_hole'] for system in ('MAT', 'telea'))
  np.testing.assert_allclose(group.differences['MAT - telea']['psnr_hole'].mean,
                             (ours - theirs).mean(), rtol=1e-5)
  np.testing.assert_array_equal(ours, without.metrics['MAT']['psnr_hole'][:10])
  assert runs.event_steps(folder, 'eval_large_telea/psnr') == [4]


def test_pictures_of_a_classical_method_are_what_was_measured(beside_classical):
  folder = os.path.join(beside_classical, 'eval')
  rows = pairs.read_csv(os.path.join(folder, 'per_image.csv'))
  pictures = os.path.join(folder, 'pictures')
  for i, name in enumerate(f'{index:05}' for index in rows.image_index[:4]):
    original, mask, filled = (np.asarray(Image.open(os.path.join(pictures, path))) for path in (
        f'originals/{name}.png', f'large/masks/{name}_{rows.mask[i]}.png',
        f'large/telea/{name}_{rows.mask[i]}.png'))
    np.testing.assert_array_equal(
        methods.load('telea', 'x')['telea'](original, mask == 0), filled)
    np.testing.assert_allclose(np.abs(original.astype(float) - filled).mean() / 255,
                               rows.metrics['telea']['l1'][i], rtol=1e-5)
  assert Image.open(os.path.join(folder, 'comparison.png')).size == (
      4 * (6 * 33 - 1), 4 * (5 * 33 - 1))


def test_a_baseline_needs_no_classical_methods(beside_classical, trained, config, tmp_path):
  evaluate.evaluate(changed(config, checkpoint=trained[0], baseline=beside_classical, features='',
                            lpips='', mask_preset='large'), str(tmp_path))
  found = record.read_last(str(tmp_path / 'eval'))
  assert list(found.mask_sets['large'].metrics) == ['MAT', 'mean colour', 'baseline']


@pytest.mark.parametrize('field,value,message', [
    ('samples_per_mask', 0, 'eval.samples_per_mask is 0'),
    ('vary', 'noise', "eval.vary is 'noise'; choose one of all, latents, keep_masks")])
def test_wrong_samples_are_named(config, field, value, message):
  with pytest.raises(UserError, match=message):
    Evaluator(changed(config, **{field: value}))


def test_follow_takes_every_checkpoint_once(trained, config, tmp_path, monkeypatch):
  workdir = str(tmp_path)
  steps = step_directories.complete_steps(trained[0])
  assert list(steps) == [2, 4]
  waits = []

  def appear(seconds):
    """What a training job does while nothing is there to evaluate."""
    waits.append(seconds)
    step = {1: 2, 2: None, 3: 4}[len(waits)]
    if step:
      shutil.copytree(steps[step], os.path.join(workdir, 'checkpoints', str(step)))

  monkeypatch.setattr(evaluate.time, 'sleep', appear)
  small = changed(config, follow=True, follow_secs=7.0, mask_preset='large', lpips='',
                  features='')
  evaluate.evaluate(small, workdir)
  folder = os.path.join(workdir, 'eval')
  assert waits == [7.0] * 3
  assert [r.step for r in record.read_all(folder)] == [2, 4]
  assert runs.event_steps(folder, 'eval_large/psnr') == [2, 4]
  evaluate.evaluate(small, workdir)
  assert len(waits) == 3 and len(record.read_all(folder)) == 2, 'there was nothing new'
  with pytest.raises(UserError, match='give the workdir'):
    evaluate.evaluate(changed(small, checkpoint=steps[2]), workdir)


def _follow(config, workdir, **fields):
  """Follows a run without its slowest metrics; returns the (step, source) of all records."""
  evaluate.evaluate(changed(config, follow=True, follow_secs=0.01, mask_preset='large', lpips='',
                            features='', masks_per_image=1, save_pictures=0, **fields), workdir)
  return [(r.step, r.source) for r in record.read_all(os.path.join(workdir, 'eval'))]


def _remove_slowly(step, begun, removed):
  """Removes a step directory as another process does: file by file, the arrays first."""
  files = [os.path.join(parent, name) for parent, _, names in os.walk(step) for name in names]
  for file in sorted(files, key=os.path.getsize, reverse=True):
    os.remove(file)
    begun[os.path.relpath(file, step).split(os.sep)[0]].set()
    time.sleep(0.06)
  shutil.rmtree(step)
  removed.set()


@pytest.mark.parametrize('remove', ['slowly', 'renamed', 'replaced'])
def test_follow_survives_a_step_that_training_removes_while_it_is_read(
    trained, config, tmp_path, monkeypatch, remove):
  workdir = str(shutil.copytree(os.path.join(trained[0], 'checkpoints'),
                                tmp_path / 'run' / 'checkpoints').parent)
  step = os.path.join(workdir, 'checkpoints', '2')
  read_shapes, removed = reader.read_shapes, threading.Event()

  def read_shapes_of_a_step_that_goes(path):
    if path.startswith(step) and not removed.is_set():
      if remove == 'slowly':
        begun = {item: threading.Event() for item in ('ema', 'training', 'meta')}
        threading.Thread(target=_remove_slowly, args=(step, begun, removed)).start()
        begun['ema'].wait()
      else:
        os.rename(step, step + '.removed')
        if remove == 'replaced':
          shutil.copytree(step + '.removed', step)
        shutil.rmtree(step + '.removed')
        removed.set()
        if remove == 'replaced':
          raise DamagedError('a file of the one before is not there')
    return read_shapes(path)

  monkeypatch.setattr(reader, 'read_shapes', read_shapes_of_a_step_that_goes)
  monkeypatch.setattr(disk, 'DELAYS', (0.5, 1.0, 2.0))
  expected = [4, 2] if remove == 'replaced' else [4]
  assert [step for step, _ in _follow(config, workdir)] == expected
  assert removed.is_set()


def test_follow_takes_equal_steps_of_another_run(trained, config, tmp_path):
  for name in ('a', 'b'):
    shutil.copytree(os.path.join(trained[0], 'checkpoints', '4'),
                    tmp_path / name / 'checkpoints' / '4')
  a, b = str(tmp_path / 'a'), str(tmp_path / 'b')
  assert _follow(config, a) == [(4, '.')]
  assert _follow(config, a, checkpoint=b) == [(4, '.'), (4, b)]
  assert _follow(config, a, checkpoint=os.path.join(b, 'checkpoints')) == [(4, '.'), (4, b)]
  moved = str((tmp_path / 'a').rename(tmp_path / 'moved'))
  assert _follow(config, moved) == [(4, '.'), (4, b)], 'it was evaluated where it was before'


def generator_of(config, workdir):
  found = reader.restore_ema(workdir)
  return model_config.generator_from_config(config.model), found.variables


def test_the_result_does_not_depend_on_the_batch(trained):
  workdir, config = trained
  generator, variables = generator_of(config, workdir)
  first, second = (
      completion.complete_split(generator, variables, changed(config, batch_size=size), 'test',
                                'large', Models({}, {})) for size in (2, 3))
  assert len(first.pairs) == 4 and first.unreadable == 0
  assert first.pairs.keys() == second.pairs.keys()
  for system, metrics in first.pairs.metrics.items():
    assert set(metrics) == PIXEL_METRICS
    for name, values in metrics.items():
      np.testing.assert_allclose(second.pairs.metrics[system][name], values, rtol=1e-3,
                                 err_msg=name)


def test_unreadable_images_are_left_out_and_counted(trained, tmp_path, monkeypatch, capsys):
  workdir, config = trained
  monkeypatch.setattr(stream, '_MAX_UNREADABLE', 0.3)
  data, output = tmp_path / 'data', str(tmp_path / 'run')
  data.mkdir()
  for i in range(5):
    Image.new('RGB', (64, 64), (40 * i, 0, 0)).save(data / f'{i}.png')
  (data / '2.png').write_bytes(b'broken')
  config = changed(config, split='all', checkpoint=workdir)
  config.data_dir = str(data)
  evaluate.evaluate(config, output)
  assert '1 more images could not be read.' in capsys.readouterr().out
  found = record.read_last(os.path.join(output, 'eval'))
  group = found.mask_sets['large']
  assert found.unreadable == 1 and (group.images, group.pairs) == (4, 8)
  assert group.distances['MAT']['fd_vgg16'].n_real == 4
  rows = pairs.read_csv(os.path.join(output, 'eval', 'per_image.csv'))
  assert rows.image.tolist() == ['0', '0', '1', '1', '3', '3', '4', '4']
  assert np.isfinite(rows.metrics['MAT']['l1']).all()
  original = Image.open(os.path.join(output, 'eval', 'pictures', 'originals', '00003.png'))
  assert original.getpixel((0, 0)) == (120, 0, 0)


def test_other_images_are_those_of_the_other_splits(trained):
  config = trained[1]
  test = from_config.open_split(config, 'test')
  others = from_config.other_images(config, 'test', 10)
  assert len(others) == 10 and not set(others.positions) & set(test.positions)
  assert len(from_config.other_images(config, 'test', 999)) + len(test) == 33
  assert from_config.other_images(config, 'all', 10) is None


def test_mean_colour_fill():
  image = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
  mask = np.ones((2, 4, 4, 1), np.float32)
  mask[0, :2], mask[1] = 0.0, 0.0
  filled = np.asarray(completion.mean_colour_fill(image, mask))
  np.testing.assert_allclose(filled[0, 0, 0], image[0, 2:].mean((0, 1)), rtol=1e-5)
  np.testing.assert_array_equal(filled[0, 2:], image[0, 2:])
  np.testing.assert_array_equal(filled[1], 0.0)


def test_validation_gives_named_means(trained):
  workdir, config = trained
  _, variables = generator_of(config, workdir)

  class Networks:
    generator = model_config.generator_from_config(config.model)

  validate = evaluate.make_validation(config)
  scalars = validate(Networks, variables, lambda: False)
  assert {'validation/psnr', 'validation/ssim_hole', 'validation/lpips_alex'} <= set(scalars)
  assert all(np.isfinite(value) for value in scalars.values())
  assert validate(Networks, variables, lambda: True) is None, 'it was asked to stop'


@pytest.mark.parametrize('fields,message', [
    ({'lpips': 'squeeze'}, "no LPIPS network 'squeeze'"),
    ({'features': 'vgg'}, "no feature network 'vgg'"),
    ({'mask_preset': ''}, 'eval.mask_preset is empty'),
    ({'mask_preset': 'large+huge'}, "unknown mask preset 'huge'"),
    ({'baseline': 'nowhere'}, 'no evaluation in nowhere/eval'),
    ({'checkpoint': 'nowhere'}, 'no checkpoint in'),
    ({'masks_per_image': 0}, 'masks_per_image is 0'),
    ({'classical': 'telea+magic'}, "eval.classical names 'magic'.*choose of telea, navier_stokes"),
])
def test_mistakes_leave_nothing(trained, tmp_path, fields, message):
  workdir, config = trained
  config = changed(config, **{'checkpoint': workdir} | fields)
  with pytest.raises(UserError, match=message):
    evaluate.evaluate(config, str(tmp_path))
  assert not [name for _, _, files in os.walk(tmp_path) for name in files]


def test_json_is_valid(evaluated):
  with open(os.path.join(evaluated, 'eval', 'metrics.json'), encoding='utf-8') as file:
    text = file.read()
  assert json.loads(text)['step'] == 4 and 'NaN' not in text
