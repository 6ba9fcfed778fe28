"""What is kept, and in which split."""

import pytest

from input_pipeline.image_dataset import SPLITS
from input_pipeline.preparing import split_plan
from input_pipeline.preparing.preparation import Prepared, Settings
from mat_jax.errors import UserError


def picture(name, digest=None, records=1, bits=None):
  """A prepared image; `bits` is the byte that its hash repeats."""
  fingerprint = None if bits is None else (bytes([bits]) * 32, b'\x55' * 32)
  return Prepared(name, name if digest is None else digest, fingerprint=fingerprint,
                  records=tuple(f'{name}@{i}' for i in range(records)))


def many(count, **options):
  return [picture(f'{i:02}', **options) for i in range(count)]


def names(plan, prepared, split):
  return [prepared[position].name for position in plan.splits[split]]


def test_training_gets_all_crops_and_the_others_one():
  prepared = many(20, records=3)
  plan = split_plan.plan(prepared, Settings())
  assert plan.report()['splits'] == {'train': 17, 'validation': 2, 'test': 1}
  assert plan.report()['records'] == {'train': 51, 'validation': 2, 'test': 1}
  for split in SPLITS:
    places = [list(plan.places(split, position)) for position in range(20)]
    expected = list(range(plan.report()['records'][split]))
    assert [number for part in places for number in part] == expected
    assert {len(part) for part in places} == {0, 3 if split == 'train' else 1}


def test_crops_may_differ_in_number():
  prepared = [picture(f'{i}', records=1 + i % 3) for i in range(9)]
  plan = split_plan.plan(prepared, Settings())
  counts = [len(plan.places('train', position)) for position in plan.splits['train']]
  assert counts == [1 + position % 3 for position in plan.splits['train']]


def test_held_out_pictures_are_the_test_split():
  prepared = many(12)
  plan = split_plan.plan(prepared, Settings(held_out=('03', '07', '08')))
  assert names(plan, prepared, 'test') == ['03', '07', '08']
  assert plan.report()['splits'] == {'train': 8, 'validation': 1, 'test': 3}
  assert sorted(sum(plan.splits.values(), [])) == list(range(12))


def test_of_equal_pictures_the_held_out_one_is_kept():
  prepared = [picture('a', 'same'), picture('b', 'same'), picture('c', 'same'), *many(4)]
  plan = split_plan.plan(prepared, Settings(held_out=('b',)))
  assert names(plan, prepared, 'test') == ['b']
  assert plan.duplicates == [('a', 'b'), ('c', 'b')]


def test_near_duplicates_are_in_one_split():
  pytest.importorskip('imagehash')
  # Three versions each of ten pictures; 32 of 256 bits or more apart from others.
  bits = (0x00, 0xff, 0x0f, 0xf0, 0x33, 0xcc, 0x3c, 0xc3, 0x5a, 0x99)
  prepared = [picture(f'{version}{i}', bits=bits[i]) for version in range(3) for i in range(10)]
  for seed in range(5):
    plan = split_plan.plan(prepared, Settings(near_duplicates=20, split_seed=seed))
    assert plan.report()['splits'] == {'train': 24, 'validation': 3, 'test': 3}
    for split in SPLITS:
      found = names(plan, prepared, split)
      assert all(f'{version}{name[1]}' in found for name in found for version in range(3))
  assert len(plan.near_duplicates) == 10 and plan.near_duplicates[0] == ['00', '10', '20']
  apart = split_plan.plan(prepared, Settings())
  assert apart.near_duplicates == [] and apart.report()['splits']['train'] == 25


def test_what_is_near_a_held_out_picture_is_left_out():
  pytest.importorskip('imagehash')
  bits = (0x00, 0xff, 0x0f, 0xf0, 0x00, 0x33, 0x00)
  prepared = [picture(f'{i}', bits=value) for i, value in enumerate(bits)]
  settings = Settings(near_duplicates=20, held_out=('4', '6'))
  plan = split_plan.plan(prepared, settings)
  assert plan.like_held_out == [('0', '4')] and names(plan, prepared, 'test') == ['4', '6']
  assert plan.report()['images'] == 6
  assert plan.report()['like_held_out'] == [{'name': '0', 'like': '4'}]


def test_the_report_names_what_was_left_out_and_who_made_the_rest():
  prepared = [*many(4), Prepared('x'), Prepared('y', problem='truncated')]
  credits = (('0[01]', (('license', 'CC0'),)), ('*', (('license', 'GPL-2.0-or-later'),)))
  report = split_plan.plan(prepared, Settings(credits=credits)).report()
  assert report['left_out'] == ['x']
  assert report['broken'] == [{'name': 'y', 'problem': 'truncated'}]
  assert report['credits'] == [{'license': 'CC0', 'names': ['00', '01']},
                               {'license': 'GPL-2.0-or-later', 'names': ['02', '03']}]


def test_too_few_pictures():
  for prepared, settings, message in (
      (many(2), Settings(), '2 of 2 images can be used, too few'),
      (many(2), Settings(held_out=('01',)), r'2 of 2 .*\(1 without held-out ones'),
      ([Prepared('a', problem='x'), *many(3)], Settings(held_out=('a',)),
       "3 of 4 images can be used, too few .* 'a' because of 'x'")):
    with pytest.raises(UserError, match=message):
      split_plan.plan(prepared, settings)
