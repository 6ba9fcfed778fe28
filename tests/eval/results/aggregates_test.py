import numpy as np

from eval.results import aggregates, pairs
from tests.eval.results.pairs_test import table


def test_means_and_differences_are_over_images():
  group = aggregates.group(table().where(np.array([True, False, True, True])),
                         [('MAT', 'mean colour')], {})
  assert (group.images, group.pairs) == (2, 3)
  assert group.metrics['MAT']['psnr'].mean == np.mean([0, np.mean([2, 3])])
  difference = group.differences['MAT - mean colour']
  assert set(difference) == {'psnr'} and difference['psnr'].mean == np.mean([0, 5])
  assert difference['psnr'].n == 2


def test_groups_by_masks_and_by_hole_ratio():
  both = pairs.join([table(), table(masks='small', offset=10)])
  sets = aggregates.by_mask_set(both, [], {'small': {'MAT': {}}})
  assert list(sets) == ['large', 'small'] and sets['small'].distances == {'MAT': {}}
  assert sets['small'].metrics['MAT']['psnr'].mean == 11.5
  bins = aggregates.by_hole_ratio(both, [])
  # 0.1, 0.3, 0.5, 0.7 for each set of masks.
  assert {name: group.pairs for name, group in bins.items()} == dict.fromkeys(aggregates.BINS, 2)
  assert bins['0-20 %'].metrics['mean colour']['psnr'].mean == -5


def test_bands_end_below_their_upper_limit_and_leave_nothing_out():
  found = table()
  found.hole_ratio[:] = [0.2, 0.6, 1.0, 0.0]
  bins = aggregates.by_hole_ratio(found, [])
  assert {name: group.pairs for name, group in bins.items()} == {
      '0-20 %': 1, '20-40 %': 1, 'above 60 %': 2}
  found.hole_ratio[:] = np.nan  # without masks
  assert aggregates.by_hole_ratio(found, []) == {}
