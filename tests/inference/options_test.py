import pytest

from mat_jax.errors import UserError
from mat_jax.inference.options import InpaintOptions


@pytest.mark.parametrize('field,value,message', [
    ('num_samples', 0, 'num_samples is 0'), ('strategy', 'magic', "strategy is 'magic'; choose"),
    ('context', 0.5, 'context is 0.5'), ('max_enlarge', 0, 'max_enlarge is 0'),
    ('feather', -2, 'feather is -2'), ('context', float('nan'), 'context is nan'),
    ('truncation_psi', float('nan'), 'truncation_psi is nan'),
])
def test_values_that_are_not_possible_are_named(field, value, message):
  with pytest.raises(UserError, match=message):
    InpaintOptions(**{field: value})
