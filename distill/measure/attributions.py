"""Explanations of a model on a few examples: attributions, attention rollout, layers' features.

Gradients are taken with regard to the numbers that the modality's probe names: pixels, or the
embeddings of words.
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


class ProbedModel:
  """A model with its weights that returns gradients and features beside its answers.

  Called with a batch, inputs `x` and weights `by` [b c] of the output that the task explains,
  also [b c], it returns

    measured           the task's measurements, at x
    gradient   as x    of Σ by · output with regard to x
    rollout    [b s]   for models with attention
    layers     {name: [b f]}   each layer's features of an example, as the probe pools them
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
        found = {'measured': task.measure(lambda _: outputs, batch),
                 'layers': {name: probe.pool(outputs[name], batch)
                            for name in filter(LAYERS.fullmatch, outputs)}}
        attention = [outputs[name] for name in sorted(filter(ATTENTION.fullmatch, outputs))]
        if attention:
          found['rollout'] = rollout(attention)
        return outputs[task.explain.output], found

      output, pullback, found = jax.vjp(output_at, batch['x'], has_aux=True)
      return {'gradient': pullback(batch['by'].astype(output.dtype))[0], **found}
    self.view = jax.jit(view)

  def value(self, batch: Batch) -> np.ndarray:
    """Returns the inputs x of a batch, as the probe defines them."""
    return np.asarray(self.probe.value(self.params, batch))

  def __call__(self, batch: Batch, x: np.ndarray, by: np.ndarray) -> Outputs:
    rows = self.layout.local_rows(len(x), 'evaluate.batch_size')
    fed = {**batch, 'x': x.astype(np.float32), 'by': by.astype(np.float32)}
    fed = self.layout.to_devices({k: value[rows] for k, value in fed.items()})
    return self.view(*self.weights, fed)


def rollout(attention: Sequence[jax.Array]) -> jax.Array:
  """Computes how much the first position draws on every position through all layers, [b s].

  Attention rollout (Abnar 2020, eq. 1). `attention` is [b h s s] of each layer, from the first to
  the last. A layer's matrix is half the mean over its heads and half the identity, the residual.
  """
  share = jnp.zeros(attention[0].shape[::3]).at[:, 0].set(1.0)
  for layer in reversed(attention):
    share = (share + jnp.einsum('bq,bqk->bk', share, layer.mean(axis=1))) / 2
  return share


def integrated_gradients(gradient: Callable[[np.ndarray], np.ndarray], x: np.ndarray,
                         start: np.ndarray, steps: int = STEPS) -> np.ndarray:
  """Computes integrated gradients (Sundararajan 2017, eq. 1) of the function with that gradient.

  (x - start) times the mean gradient on the straight line from `start` to `x`, by the midpoint
  rule. The sum of the result is the difference of the function between both ends (completeness).
  """
  points = (np.arange(steps) + 0.5) / steps
  return (x - start) * sum(gradient(start + t * (x - start)) for t in points) / steps


def explain(model: ProbedModel, batches: Sequence[Batch], *, target: Mapping[int, int],
            sampled: Collection[int], modality: str = '') -> Records:
  """Explains a model's answers to the examples of some prepared batches.

  Args:
    target: the output column to explain, by an example's id; 0 where an id is missing.
    sampled: ids of the random sample; the other examples are there to be shown.
    modality: the name by which `lookup` finds a modality outside this package, '' for one of ours.

  Returns:
    id           int32 [n]
    sampled      bool [n]         whether the id is one of `sampled`
    target       int32 [n]        the column that is explained; 0 of a regression
    places       bool [n …]       where an input has content: words [s], or pixels [h w]
    attribution  float32 [n …]    integrated gradients of the target's column minus the mean of all
                                  columns (softmax ignores that mean), summed over an embedding or
                                  over channels
    rollout      float32 [n s]    for models with attention
    layers       str [l]          names from the input to the output
    grams        float32 [l m m]  inner products of the layers' features, of the m sampled examples
    modality     str              only if `modality` is given

    and whatever the probe keeps of the inputs themselves, by names of its choice.

  The integral starts from an input without words: zeros for the embeddings of words (Sundararajan
  2017, §6.3), special tokens and positions unchanged. For an image it starts at the mean pixel.
  """
  parts, features = [], []
  for batch in map(batches.__getitem__, range(len(batches))):
    keep = np.flatnonzero(batch['valid'])
    arrays, layers = _explain_batch(model, batch, target)
    arrays['sampled'] = np.isin(arrays['id'], list(sampled))
    parts.append({name: value[keep] for name, value in arrays.items()})
    features.append({name: layer[keep][arrays['sampled'][keep]] for name, layer in layers.items()})
  names = sorted(features[0], key=lambda name: (name not in FIRST, name == 'pooled', name))
  layers = [np.concatenate([part[name] for part in features]).astype(np.float64) for name in names]
  # Subtracting the first example makes constant features exactly 0.
  centred = [layer - layer[:1] for layer in layers]
  grams = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in centred]
  records = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  n = int(records['sampled'].sum())
  records = {**records, **model.probe.legend(records), 'layers': np.array(names, np.str_),
             'grams': np.array(grams, np.float32).reshape(len(names), n, n)}
  if modality:
    records['modality'] = np.array(modality)
  return records


def _explain_batch(model: ProbedModel, batch: Batch,
                   target: Mapping[int, int]) -> tuple[Records, dict[str, np.ndarray]]:
  """Returns the arrays of `explain` for one batch, and its layers' features."""
  probe, columns = model.probe, model.task.explain.columns
  column = np.array([target.get(int(example), 0) for example in batch['id']], np.int32)
  by = np.eye(columns)[column] - (1 / columns if columns > 1 else 0)
  x, places = model.value(batch), probe.positions(batch)
  gradient = lambda at: sharding.on_host(model(batch, at, by)['gradient'])
  attribution = integrated_gradients(gradient, x, np.where(places[..., None], 0, x)).sum(-1)
  outputs = sharding.on_host(model(batch, x, by))
  arrays = {'id': np.asarray(batch['id']), 'target': column, **probe.keep(batch),
            'places': places, 'attribution': attribution.astype(np.float32)}
  if 'rollout' in outputs:
    arrays['rollout'] = outputs['rollout']
  return arrays, outputs['layers']
