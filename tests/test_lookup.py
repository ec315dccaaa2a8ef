import pytest

from distill import lookup
from distill.types import Status, Stop


def takes(*, rate: float, steps: int = 3, name: str = '', on: bool = False,
          sizes: tuple[int, ...] = (), extra: int | None = None):
  if rate < 0:
    raise ValueError(f'rate={rate} must be 0 or more')
  return rate, steps, name, on, sizes, extra


def test_a_name_is_an_import_path_inside_a_room():
  from distill.losses import logits
  assert lookup.find('losses', 'logits.kl', 'objective.soft.loss') is logits.kl


@pytest.mark.parametrize('name', ['logits.kll', 'logit.kl', '', 'kl', 'logits._pair', 'logits.jnp',
                                  'os.system', '..types.Stop'])
def test_a_name_that_names_nothing_is_refused(name):
  with pytest.raises(Stop) as stop:
    lookup.find('losses', name, 'objective.soft.loss')
  assert stop.value.status == Status.CONFIG
  assert str(stop.value).startswith(f'objective.soft.loss={name!r} names nothing in distill/losses')


def test_the_nearest_names_are_offered():
  with pytest.raises(Stop, match="did you mean 'logits.kl'"):
    lookup.find('losses', 'logits.kll', 'x')
  with pytest.raises(Stop, match="did you mean 'bert.Bert'"):
    lookup.find('models', 'bert.Bret', 'x')


def test_what_others_define_is_no_name_of_the_room():
  assert 'logits.kl' in lookup.names('losses')
  assert not [n for n in lookup.names('losses') if 'Array' in n or n.endswith(('jax', 'jnp'))]


def test_a_node_is_splatted_and_given_values_fill_it():
  assert lookup.call(takes, {'rate': 1}, 'node', steps=7) == (1, 7, '', False, (), None)


@pytest.mark.parametrize(('node', 'line'), [
    ({'rate': True}, 'node.rate=True is a bool, not a float'),
    ({'rate': 1.0, 'steps': 2.0}, 'node.steps=2.0 is a float, not a int'),
    ({'rate': 1.0, 'steps': True}, 'node.steps=True is a bool, not a int'),
    ({'rate': '1'}, "node.rate='1' is a str, not a float"),
    ({'rate': 1.0, 'on': 1}, 'node.on=1 is a int, not a bool'),
    ({'rate': 1.0, 'sizes': ('a',)}, "node.sizes=('a',) is a tuple"),
    ({'rate': 1.0, 'sizes': 'ab'}, "node.sizes='ab' is a str"),
    ({'rate': 1.0, 'rates': 2}, "node.rates: takes has no such field; did you mean 'rate'"),
    ({}, 'node lacks rate, which takes needs'),
    ({'rate': -1.0}, 'node: rate=-1.0 must be 0 or more'),
])
def test_a_wrong_node_is_one_line(node, line):
  with pytest.raises(Stop) as stop:
    lookup.call(takes, node, 'node')
  assert line in str(stop.value) and stop.value.status == Status.CONFIG


def test_right_types_pass():
  assert lookup.call(takes, {'rate': 2, 'sizes': [1, 2], 'extra': None, 'on': True}, 'n') == (
      2, 3, '', True, [1, 2], None)


def test_a_given_keyword_may_not_be_set_too():
  with pytest.raises(Stop, match='node.steps: takes has no such field'):
    lookup.call(takes, {'rate': 1.0, 'steps': 2}, 'node', steps=7)
