"""What goes on in a model on a few examples: what it looks at, and what its layers hold.

Gradients are with regard to what the modality's probe says: pixels, or the embeddings of words.
"""
import re
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from distill import sharding
from distill.modalities import Probe
from distill.models.functional import Flat, Functional
from distill.tasks import Task
from distill.teachers import Weights
from distill.types import Batch, Outputs, Records

LAYERS = re.compile(r'embedding|stem|block\d+/hidden|stage\d+/features|pooled')
ATTENTION = re.compile(r'block\d+/attention')
FIRST = 'embedding', 'stem'
STEPS = 16              # of the integral


class Inside:
  """A model with its weights that tells more than its answers.

  Called with a batch, its inputs `x` and `by` [b c], it gives, where the task explains an output
  [b c],

    measured           the task's, at x
    gradient   as x    of Σ by · output with regard to x
    rollout    [b s]   of models with attention
    layers     {name: [b f]}   what each layer holds of an example, as the probe pools it
  """

  def __init__(self, model: Functional, weights: Weights, layout: sharding.Layout, probe: Probe,
               task: Task):
    self.layout, self.probe, self.task = layout, probe, task
    self.weights = sharding.device_put(weights, layout.weight_shardings(weights))
    self.params = sharding.on_host(weights[0])

    def view(params: Flat, rest: Flat, batch: Batch) -> Outputs:
      params = layout.all_gather(params)

      def output_at(x):
        changed, fed = probe.feed(params, batch, x)
        outputs, _ = model(changed, rest, fed, train=False, key=None)
        kept = {'measured': task.measure(lambda _: outputs, batch),
                'layers': {name: probe.pool(outputs[name], batch)
                           for name in filter(LAYERS.fullmatch, outputs)}}
        if attention := [outputs[name] for name in sorted(filter(ATTENTION.fullmatch, outputs))]:
          kept['rollout'] = rollout(attention)
        return outputs[task.explain.output], kept

      output, pull, kept = jax.vjp(output_at, batch['x'], has_aux=True)
      return {'gradient': pull(batch['by'].astype(output.dtype))[0], **kept}
    self.view = jax.jit(view)

  def value(self, batch: Batch) -> np.ndarray:
    """The inputs x of a batch, as the probe has them."""
    return np.asarray(self.probe.value(self.params, batch))

  def __call__(self, batch: Batch, x: np.ndarray, by: np.ndarray) -> Outputs:
    rows = self.layout.local_rows(len(x), 'evaluate.batch_size')
    fed = {**batch, 'x': x.astype(np.float32), 'by': by.astype(np.float32)}
    fed = self.layout.to_devices({k: value[rows] for k, value in fed.items()})
    return self.view(*self.weights, fed)


def rollout(attention: Sequence[jax.Array]) -> jax.Array:
  """What the first position draws on through all layers, [b s] (Abnar 2020, eq. 1).

  Of attention [b h s s] from the first layer to the last; a layer's is the mean over its heads,
  half of it the residual.
  """
  share = jnp.zeros(attention[0].shape[::3]).at[:, 0].set(1.0)
  for layer in reversed(attention):
    share = (share + jnp.einsum('bq,bqk->bk', share, layer.mean(axis=1))) / 2
  return share


def integrated(gradient: Callable[[np.ndarray], np.ndarray], x: np.ndarray, start: np.ndarray,
               steps: int = STEPS) -> np.ndarray:
  """Integrated gradients of what `gradient` is the gradient of (Sundararajan 2017, eq. 1).

  (x - start) times the gradient's mean on the way from one to the other, by the midpoint rule. In
  sum it is the function's difference between the ends (completeness).
  """
  way = (np.arange(steps) + 0.5) / steps
  return (x - start) * sum(gradient(start + alpha * (x - start)) for alpha in way) / steps


def explained(inside: Inside, batches: Sequence[Batch], *, target: Mapping[int, int],
              drawn: Collection[int], modality: str = '') -> Records:
  """What is kept of the examples of some prepared batches:

    id           int32 [n]
    sampled      bool [n]         one of `drawn`, not there for what models say of it
    target       int32 [n]        the column that is explained: `target`, by id; 0 of a regression
    places       bool [n …]       where an input says something: words [s], or pixels [h w]
    attribution  float32 [n …]    integrated gradients of the target's column less the mean of all
                                  (softmax doesn't see that mean), summed over an embedding or over
                                  channels
    rollout      float32 [n s]    of models with attention
    layers       str [l]          from the input to the output
    grams        float32 [l m m]  products of the layers' features, of the m sampled examples
    modality     str              by which `lookup` finds it, only if `modality` is given: for
                                  one outside this package, so that the files of ours stay the same

  and what the probe keeps of the inputs themselves, by names of its own.

  The way to an input starts where no word is: at rows of zeros for the embeddings of words (as
  Sundararajan 2017, §6.3), special tokens and positions being there; or at the mean pixel.
  """
  found, features = [], []
  for batch in map(batches.__getitem__, range(len(batches))):
    keep = np.flatnonzero(batch['valid'])
    seen, layers = _seen(inside, batch, target)
    seen['sampled'] = np.isin(seen['id'], list(drawn))
    found.append({name: value[keep] for name, value in seen.items()})
    features.append({name: layer[keep][seen['sampled'][keep]] for name, layer in layers.items()})
  names = sorted(features[0], key=lambda name: (name not in FIRST, name == 'pooled', name))
  whole = [np.concatenate([part[name] for part in features]).astype(np.float64) for name in names]
  centred = [layer - layer[:1] for layer in whole]          # of constant features nothing is left
  grams = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in centred]
  seen = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
  n = int(seen['sampled'].sum())
  return {**seen, **inside.probe.legend(seen), 'layers': np.array(names, np.str_),
          'grams': np.array(grams, np.float32).reshape(len(names), n, n),
          **({'modality': np.array(modality)} if modality else {})}


def _seen(inside: Inside, batch: Batch,
          target: Mapping[int, int]) -> tuple[Records, dict[str, np.ndarray]]:
  """What `explained` keeps of one batch, and its layers' features."""
  probe, columns = inside.probe, inside.task.explain.columns
  explained = np.array([target.get(int(example), 0) for example in batch['id']], np.int32)
  by = np.eye(columns)[explained] - (1 / columns if columns > 1 else 0)
  x, places = inside.value(batch), probe.positions(batch)
  gradient = lambda at: sharding.on_host(inside(batch, at, by)['gradient'])
  attribution = integrated(gradient, x, np.where(places[..., None], 0, x)).sum(-1)
  outputs = sharding.on_host(inside(batch, x, by))
  return ({'id': np.asarray(batch['id']), 'target': explained, **probe.keep(batch),
           'places': places, 'attribution': attribution.astype(np.float32),
           **({'rollout': outputs['rollout']} if 'rollout' in outputs else {})},
          outputs['layers'])
