import pytest

from benchmarks.compiled import batch_search


@pytest.mark.parametrize('limit,expected', [(-1, 0), (0, 0), (3, 3), (4, 4), (7, 4), (23, 20)])
def test_batches_of_whole_groups(limit, expected):
  assert batch_search.allowed(limit) == expected


# Bytes of a batch: a line, one that bends up, one that bends down, one with a step.
CURVES = {'line': lambda n: 100 + 10 * n, 'up': lambda n: 100 + 10 * n + n * n // 10,
          'down': lambda n: 100 + 20 * n - n * n // 50,
          'step': lambda n: 100 + 10 * n + 60 * (n > 20)}


@pytest.mark.parametrize('name', CURVES)
@pytest.mark.parametrize('budget', [90, 115, 125, 150, 300, 337, 1000])
def test_the_largest_batch_is_found(name, budget):
  curve, tried = CURVES[name], []

  def peak(batch):
    tried.append(batch)
    return curve(batch)

  batch, known = batch_search.largest(peak, budget)
  fitting = [n for n in [1, 2, 3, *range(4, 160, 4)] if curve(n) <= budget]
  assert batch == max(fitting, default=0)
  assert len(tried) == len(set(tried)) <= 8
  assert known == {n: curve(n) for n in tried}


def test_a_line_needs_one_compilation_to_confirm():
  batch, known = batch_search.largest(CURVES['line'], 507)
  assert batch == 40 and sorted(known) == [4, 8, 40]
