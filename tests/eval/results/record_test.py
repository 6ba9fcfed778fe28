import json
import math

import pytest

from eval.metrics.bootstrap import Summary
from eval.metrics.distances import Distance
from eval.results import record
from eval.results.record import Group, Record, Run
from mat_jax.errors import UserError

MEAN = Summary(20.5, 19.0, 22.0, 5, 1, 2)
UNDEFINED = Summary(math.nan, math.nan, math.nan, 0, 0, 10)


def make(step=4, **fields):
  group = Group(5, 10, {'MAT': {'psnr': MEAN, 'l1_hole': UNDEFINED}},
                {'MAT - mean colour': {'psnr': MEAN}},
                {'MAT': {'fid': Distance(3.5, 3.0, 4.0, 5, 10, 2048, note='few images'),
                         'p_ids': Distance(None, None, None, 5, 10, 2048, note='too few')}})
  return Record(**dict(
      title='MAT, runs/x', step=step, kimg=0.016, split='test', masks_per_image=2, unreadable=0,
      settings={'seed': 0, 'hole_range': [0.0, 1.0]}, mask_sets={'large': group},
      bins={'0-20 %': group._replace(distances={})}, notes=('No metrics with x.',)) | fields)


def test_round_trip(tmp_path):
  record.write(make(), str(tmp_path))
  found = record.read_last(str(tmp_path))
  assert record.to_json(found) == record.to_json(make())
  group = found.mask_sets['large']
  assert group.metrics['MAT']['psnr'] == MEAN and math.isnan(group.metrics['MAT']['l1_hole'].mean)
  assert group.distances['MAT']['fid'].value == 3.5


def test_older_records_are_read():
  content = record.to_json(make())
  content['bands'] = content.pop('bins')
  assert record.from_json(content) == record.from_json(record.to_json(make()))


def test_json_has_no_nan(tmp_path):
  record.write(make(), str(tmp_path))
  for name in ('metrics.json', 'metrics.jsonl'):
    text = (tmp_path / name).read_text()
    assert json.loads(text)['mask_sets']['large']['metrics']['MAT']['l1_hole']['mean'] is None
    assert 'NaN' not in text


def test_a_line_for_every_evaluation(tmp_path):
  folder = str(tmp_path)
  assert record.read_all(folder) == []
  for step in (4, 8):
    record.write(make(step, title=f'step {step}'), folder)
  record.write(make(4, title='step 4', unreadable=1), folder)  # again
  record.write(make(4, title='step 4', settings={'seed': 1}), folder)
  assert [(r.step, r.unreadable, r.settings['seed']) for r in record.read_all(folder)] == [
      (8, 0, 0), (4, 1, 0), (4, 0, 1)]


def test_equal_steps_of_two_runs_have_a_line_each(tmp_path):
  folder = str(tmp_path)
  for source in ('.', '/runs/y', '/runs/y'):  # the third again, under another name
    record.write(make(4, title=f'MAT, {len(record.read_all(folder))}', source=source), folder)
  assert [(r.title, r.source) for r in record.read_all(folder)] == [
      ('MAT, 0', '.'), ('MAT, 2', '/runs/y')]


def test_a_line_without_a_source_is_of_the_run_of_its_title(tmp_path):
  record.write(make(4), str(tmp_path))
  path = tmp_path / 'metrics.jsonl'
  line = json.loads(path.read_text())
  del line['source']  # as earlier versions wrote it
  path.write_text(json.dumps(line) + '\n')
  (old,) = record.read_all(str(tmp_path))
  assert old.source is None
  assert old.run.is_same(Run('MAT, runs/x', '.')) and not old.run.is_same(Run('MAT, runs/y', '.'))
  record.write(make(4, title='MAT, runs/y', source='/runs/y'), str(tmp_path))
  record.write(make(4, source='.'), str(tmp_path))
  assert [r.source for r in record.read_all(str(tmp_path))] == ['/runs/y', '.']


def test_a_source_is_the_run_whatever_path_led_to_it(tmp_path):
  run = tmp_path / 'run'
  step = run / 'checkpoints' / '4'
  step.mkdir(parents=True)
  (tmp_path / 'link').symlink_to(run)
  for workdir in (run, tmp_path / 'link'):
    assert record.source_of(str(step), str(workdir)) == '.'
  assert record.source_of(str(tmp_path / 'link' / 'checkpoints' / '4'), 'elsewhere') == str(run)
  assert record.source_of(str(tmp_path / 'steps' / '4'), str(run)) == str(tmp_path / 'steps')


def test_records_in_a_bucket(bucket):
  address, _ = bucket
  run = f'{address}/run'
  for step in (4, 8, 4):
    record.write(make(step), f'{run}/eval')
  assert [r.step for r in record.read_all(f'{run}/eval')] == [8, 4]
  assert record.read_last(f'{run}/eval').step == 4
  assert record.source_of(f'{run}/checkpoints/4', run + '/') == '.'
  assert record.source_of(f'{run}/checkpoints/4', 'elsewhere') == run
  with pytest.raises(UserError, match=f'there is no evaluation in {address}/no/eval'):
    record.read_last(f'{address}/no/eval')


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
  record.write(make(4), str(tmp_path))
  with open(tmp_path / 'metrics.jsonl', 'a', encoding='utf-8') as file:
    file.write('{"title": "MA')
  record.write(make(8), str(tmp_path))
  assert [r.step for r in record.read_all(str(tmp_path))] == [4, 8]


def test_mistakes(tmp_path):
  with pytest.raises(UserError, match='no evaluation in.*--mode=eval'):
    record.read_last(str(tmp_path))
  (tmp_path / 'metrics.json').write_text('{"title": 1}')
  with pytest.raises(UserError, match='metrics.json cannot be read'):
    record.read_last(str(tmp_path))
  (tmp_path / 'metrics.jsonl').write_text('[]\n')
  with pytest.raises(UserError, match='metrics.jsonl cannot be read'):
    record.read_all(str(tmp_path))
