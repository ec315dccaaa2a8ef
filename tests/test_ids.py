"""Ids beyond a model's tables, which JAX would take for those of the last row."""
import json

import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer

from distill import export, formats, predict
from distill.modalities import tokenizer
from distill.models.functional import check_ids
from distill.types import Status, Stop
from tests.formats.test_finite import LABELS, command
from tests.test_pretrained import pretrained

__all__ = ['command']               # a fixture


def added(folder, *tokens, at=None):
  """The folder with words of its tokenizer that its model has no rows for."""
  made = Tokenizer.from_str(tokenizer.read(str(folder)))
  made.add_tokens(list(tokens))
  content = json.loads(made.to_str())
  for token in content['added_tokens']:
    token['id'] = at or token['id']
  (folder / 'tokenizer.json').write_text(json.dumps(content))
  return folder


@pytest.mark.parametrize('text', ['the cat', 'the <new>'])
@pytest.mark.parametrize('name', ['predict', 'export', 'evaluate', 'teacher', 'student'])
def test_a_tokenizer_with_more_words_than_the_table_is_refused_when_it_is_opened(
    command, tmp_path, name, text):
  place = added(pretrained(tmp_path / 'model', LABELS), '<new>', '<newer>')
  code, out, err = command(name, place)
  assert code == Status.MISFIT and not out and 'Traceback' not in err
  if name in ('predict', 'export', 'evaluate'):
    assert err.splitlines()[-1].endswith(
        f"{place}: its tokenizer has the token '<new>' with the id 29 (2 such tokens), and its "
        'model a table of 29 tokens, from 0')


def test_an_id_far_beyond_costs_no_time(tmp_path):
  place = pretrained(tmp_path / 'model', LABELS)
  content = json.loads(tokenizer.read(str(place)))
  content['model']['vocab']['cat'] = 10**9
  (place / 'tokenizer.json').write_text(json.dumps(content))
  with pytest.raises(Stop, match="the id of 'cat' is 1000000000, not from 0 to 16777216"):
    predict.answers(str(place), ['the dog'])


def test_a_table_with_rows_to_spare_is_fine(tmp_path):
  place = pretrained(tmp_path / 'model', LABELS)
  words = (place / 'vocab.txt').read_text().splitlines()
  (place / 'vocab.txt').write_text('\n'.join(words[:-3]))
  assert predict.answers(str(place), ['the cat'])[0]['label'] in LABELS


@pytest.fixture
def one_type(tmp_path):
  """A folder whose model knows one type of token, and its tokenizer two."""
  place = pretrained(tmp_path / 'model', LABELS)
  config, file = json.loads((place / 'config.json').read_text()), place / 'model.safetensors'
  arrays = safetensors.numpy.load_file(file)
  name = 'bert.embeddings.token_type_embeddings.weight'
  safetensors.numpy.save_file({**arrays, name: arrays[name][:1].copy()}, file)
  (place / 'config.json').write_text(json.dumps({**config, 'type_vocab_size': 1}))
  return place


def test_a_pair_for_a_model_of_one_type_is_refused(one_type, tmp_path, capsys):
  assert predict.answers(str(one_type), ['the cat'])[0]['label'] in LABELS
  assert predict.main([f'--model={one_type}', 'the cat\tthe dog']) == Status.MISFIT
  out, err = capsys.readouterr()
  assert not out and len(err.splitlines()) == 1
  assert 'there is 1 among its types, and the model has a table of 1 of them' in err
  (tmp_path / 'pairs').write_text('the cat\tthe dog\n')
  assert export.main([f'--model={one_type}', f'--to={tmp_path}/to',
                      f'--inputs={tmp_path}/pairs']) == Status.MISFIT
  (tmp_path / 'texts').write_text('the cat\n')
  assert export.main([f'--model={one_type}', f'--to={tmp_path}/to',
                      f'--inputs={tmp_path}/texts']) == 0
  with pytest.raises(Stop, match='1 among its types'):        # the program knows its tables
    predict.answers(f'{tmp_path}/to', ['the cat\tthe dog'])


@pytest.mark.parametrize('name', ['evaluate', 'teacher'])
def test_pairs_of_a_data_set_are_refused_too(command, one_type, tmp_path, name):
  (tmp_path / 'my.jsonl').write_text('\n'.join(json.dumps(
      {'premise': f'the cat {i}', 'hypothesis': 'the dog', 'label': LABELS[i % 2]})
      for i in range(60)))
  code, out, err = command(name, one_type)
  assert code == Status.MISFIT and 'Traceback' not in err
  assert 'there is 1 among its types' in err.splitlines()[-1]
  assert not (tmp_path / 'run' / 'checkpoints').exists()        # nothing was trained before
  assert not (tmp_path / 'run' / 'records').exists()


class Tables:
  rows = {'tokens': 4}


@pytest.mark.parametrize(('ids', 'bad'), [([0, 3], None), ([], None), ([0, 4], 4), ([-1, 3], -1)])
def test_ids_are_those_of_rows(ids, bad):
  batch = {'tokens': np.array(ids, int), 'other': np.array([99])}
  if bad is None:
    check_ids(Tables(), batch, 'x')
    return
  with pytest.raises(Stop, match=f'x: there is {bad} among its tokens, and the model has a table'):
    check_ids(Tables(), batch, 'x')


def test_a_model_without_tables_takes_anything():
  check_ids(object(), {'tokens': np.array([99])}, 'x')
  check_ids(Tables(), {'other': np.array([99])}, 'x')


def test_a_position_beyond_the_table_is_never_asked_for(tmp_path):
  place = pretrained(tmp_path / 'model', LABELS, length=12)
  long = predict.answers(str(place), ['the cat sat ' * 30])[0]
  assert long['probabilities'] == predict.answers(str(place), ['the cat sat ' * 4])[0][
      'probabilities']
  net, weights, _ = formats.load_trained(str(place))
  batch = {'tokens': np.zeros((1, 13), int), 'types': np.zeros((1, 13), int),
           'mask': np.ones((1, 13))}
  with pytest.raises(ValueError, match='13 positions, but the model has 12'):
    net(*weights, batch)


def test_a_model_with_no_room_for_the_marks_around_a_text_is_refused(tmp_path, capsys):
  place = pretrained(tmp_path / 'model', LABELS, length=3)
  assert predict.main([f'--model={place}', 'the cat']) == Status.MISFIT
  assert '3 tokens are no room for a text' in capsys.readouterr().err
