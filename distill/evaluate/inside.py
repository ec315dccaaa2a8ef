"""What goes on in a model on a few examples: what it looks at, and what its layers hold.

Gradients are with regard to pixels or to the embeddings of words: `Inside` gives a model, in
place of its token table, one that holds the batch's own rows, so that every position has a
gradient of its own and no model needs to know.
"""
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from distill import sharding
from distill.models.pure import Flat, Pure
from distill.teachers import Weights
from distill.types import Batch, Outputs, Records

TABLE, WORDS = 'token/embedding', 'words/bias'          # parameters with an entry a token
LAYERS = re.compile(r'embedding|stem|block\d+/hidden|stage\d+/features|pooled')
ATTENTION = re.compile(r'block\d+/attention')
FIRST = 'embedding', 'stem'
STEPS = 16              # of the integral


class Inside:
  """A model with its weights that tells more than its answers.

  Called with a batch, its inputs `x` and `by` [b c], it gives

    logits     [b c]    at x
    gradient   as x     of Σ by · logits with regard to x
    rollout    [b s]    of models with attention
    LAYERS     [b f]    each: a text's mean over its tokens, or an image's maps flattened
  """

  def __init__(self, model: Pure, weights: Weights, layout: sharding.Layout):
    self.layout, self.table = layout, weights[0].get(TABLE)
    self.weights = sharding.placed(weights, layout.weights(weights))

    def view(params: Flat, rest: Flat, batch: Batch) -> Outputs:
      params = layout.gathered(params)

      def outputs_at(x):
        own, fed = _fed(params, batch, x)
        outputs, _ = model(own, rest, fed, train=False, key=None)
        return outputs['logits'], _kept(outputs, batch)

      logits, pull, kept = jax.vjp(outputs_at, batch['x'], has_aux=True)
      return {'logits': logits, 'gradient': pull(batch['by'].astype(logits.dtype))[0], **kept}
    self.view = jax.jit(view)

  def __call__(self, batch: Batch, x: np.ndarray, by: np.ndarray) -> Outputs:
    rows = self.layout.rows(len(x), 'evaluate.batch_size')
    fed = {**batch, 'x': x.astype(np.float32), 'by': by.astype(np.float32)}
    return self.view(*self.weights, self.layout.fed({k: value[rows] for k, value in fed.items()}))

  def inputs(self, batch: Batch) -> np.ndarray:
    """The pixels [b h w c], or the embeddings of the tokens [b s d]."""
    if 'image' in batch:
      return np.asarray(batch['image'])
    return np.asarray(self.table)[batch['tokens']]

  def spread(self) -> float:
    """The standard deviation of an input's numbers: of pixels 1, or that of the token table."""
    return 1.0 if self.table is None else float(np.std(np.asarray(self.table, np.float64)))


def _fed(params: Flat, batch: Batch, x: jax.Array) -> tuple[Flat, Batch]:
  """Parameters and a batch by which a model reads x."""
  if 'image' in batch:
    return params, {**batch, 'image': x}
  rows = x.reshape(-1, x.shape[-1])
  own = {TABLE: rows} | ({WORDS: jnp.zeros(len(rows))} if WORDS in params else {})
  return params | own, {**batch, 'tokens': jnp.arange(len(rows)).reshape(x.shape[:2])}


def _kept(outputs: Outputs, batch: Batch) -> Outputs:
  found = {}
  for name in filter(LAYERS.fullmatch, outputs):
    layer = outputs[name]
    if layer.ndim == 3:
      mask = batch['mask'][:, :, None]
      layer = (layer * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
    found[name] = layer.reshape(len(layer), -1)
  if attention := [outputs[name] for name in sorted(filter(ATTENTION.fullmatch, outputs))]:
    found['rollout'] = rollout(attention)
  return found


def rollout(attention: Sequence[jax.Array]) -> jax.Array:
  """What the first position draws on through all layers, [b s] (Abnar 2020, eq. 1).

  Of attention [b h s s] from the first layer to the last; a layer's is the mean over its heads,
  half of it the residual.
  """
  share = jnp.zeros(attention[0].shape[::3]).at[:, 0].set(1.0)
  for layer in reversed(attention):
    share = (share + jnp.einsum('bq,bqk->bk', share, layer.mean(axis=1))) / 2
  return share


def places(batch: Batch, special: Mapping[str, int]) -> np.ndarray:
  """Where an input says something: words [b s], or pixels [b h w], all of them."""
  if 'image' in batch:
    return np.ones(batch['image'].shape[:3], bool)
  return (batch['mask'] > 0) & ~np.isin(batch['tokens'], list(special.values()))


def integrated(gradient: Callable[[np.ndarray], np.ndarray], x: np.ndarray, start: np.ndarray,
               steps: int = STEPS) -> np.ndarray:
  """Integrated gradients of what `gradient` is the gradient of (Sundararajan 2017, eq. 1).

  (x - start) times the gradient's mean on the way from one to the other, by the midpoint rule. In
  sum it is the function's difference between the ends (completeness).
  """
  way = (np.arange(steps) + 0.5) / steps
  return (x - start) * sum(gradient(start + alpha * (x - start)) for alpha in way) / steps


def looked(inside: Inside, batches: Sequence[Batch], *, target: Mapping[int, int], classes: int,
           drawn: Collection[int], special: Mapping[str, int], tokenizer: str = '') -> Records:
  """What is kept of the examples of some batches:

    id           int32 [n]
    sampled      bool [n]         one of `drawn`, not there for what models say of it
    target       int32 [n]        the class that is explained: `target`, by id; 0 of a regression
    tokens       int32 [n s]      or image float32 [n h w c]
    piece_ids    int32 [v]        the tokens that occur, of texts with a `tokenizer` (JSON)
    pieces       str [v]          … as it spells them
    places       bool [n s]       the words; or [n h w], all pixels
    attribution  float32 [n s]    integrated gradients of the target's logit less the mean of all
                                  (softmax doesn't see that mean), summed over an embedding; or,
                                  summed over channels, [n h w]
    rollout      float32 [n s]    of models with attention
    layers       str [l]          from the input to the output
    grams        float32 [l m m]  products of the layers' features, of the m sampled examples

  The way to an input starts where no word is: at rows of zeros for the embeddings of words (as
  Sundararajan 2017, §6.3), special tokens and positions being there; or at the mean pixel.
  """
  found, features = [], []
  for batch in map(batches.__getitem__, range(len(batches))):
    keep = np.flatnonzero(batch['valid'])
    told, layers = _told(inside, batch, target, classes, special)
    told['sampled'] = np.isin(told['id'], list(drawn))
    found.append({name: value[keep] for name, value in told.items()})
    features.append({name: layer[keep][told['sampled'][keep]] for name, layer in layers.items()})
  names = sorted(features[0], key=lambda name: (name not in FIRST, name == 'pooled', name))
  whole = [np.concatenate([part[name] for part in features]).astype(np.float64) for name in names]
  centred = [layer - layer[:1] for layer in whole]          # of constant features nothing is left
  grams = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in centred]
  told = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
  return {**told, **(_spelled(told['tokens'], tokenizer) if tokenizer else {}),
          'layers': np.array(names), 'grams': np.array(grams, np.float32)}


def _spelled(tokens: np.ndarray, tokenizer: str) -> Records:
  from tokenizers import Tokenizer  # here: models of images don't need it
  spell, ids = Tokenizer.from_str(tokenizer).id_to_token, np.unique(tokens)
  return {'piece_ids': ids.astype(np.int32),
          'pieces': np.array([spell(i) or '' for i in ids.tolist()])}


def _told(inside: Inside, batch: Batch, target: Mapping[int, int], classes: int,
          special: Mapping[str, int]) -> tuple[Records, dict[str, np.ndarray]]:
  """What `looked` keeps of one batch, and its layers' features."""
  explained = np.array([target.get(int(example), 0) for example in batch['id']], np.int32)
  by = np.eye(classes)[explained] - (1 / classes if classes > 1 else 0)
  x, words = inside.inputs(batch), places(batch, special)
  gradient = lambda at: sharding.on_host(inside(batch, at, by)['gradient'])
  attribution = integrated(gradient, x, np.where(words[..., None], 0, x)).sum(-1)
  outputs = sharding.on_host(inside(batch, x, by))
  field = 'image' if 'image' in batch else 'tokens'
  return ({'id': np.asarray(batch['id']), 'target': explained, field: np.asarray(batch[field]),
           'places': words, 'attribution': attribution.astype(np.float32),
           **({'rollout': outputs['rollout']} if 'rollout' in outputs else {})},
          {name: value for name, value in outputs.items() if LAYERS.fullmatch(name)})
