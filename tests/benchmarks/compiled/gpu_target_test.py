import jax
import pytest

from benchmarks.compiled import gpu_target
from mat_jax.errors import UserError


@pytest.mark.parametrize('name,memory,bandwidth', [
    ('h100', 80e9, 3.35e12), ('a100', 40e9, 1.56e12), ('t4', 16e9, 0.32e12)])
def test_targets_are_the_cards_of_their_names(name, memory, bandwidth):
  target = gpu_target.read(name)
  assert target.memory == pytest.approx(memory, rel=0.07)
  assert target.bandwidth == pytest.approx(bandwidth, rel=0.01)
  assert name.upper() in target.text
  assert set(target.peaks) <= {'bf16', 'f16', 'f32'}


def test_every_target_has_a_file():
  assert [gpu_target.read(name).name for name in gpu_target.NAMES] == ['h100', 'a100', 't4']


def test_without_the_plugin_the_message_says_what_to_install(monkeypatch):
  def missing(**kwargs):
    raise NotImplementedError('topology not implemented for cuda')

  monkeypatch.setattr(jax.experimental.topologies, 'get_topology_desc', missing)
  with pytest.raises(UserError, match=r'install .*gpu-aot'):
    gpu_target.mesh(gpu_target.read('a100'), 4)
