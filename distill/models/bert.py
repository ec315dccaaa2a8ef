"""BERT's encoder (Devlin 2018), with a classification and a masked-word head.

As published: post-LayerNorm with eps 1e-12, erf GELU, learned positions, token types, a tanh
pooler over the first position, and a padding mask. RoBERTa (Liu 2019) and DistilBERT (Sanh 2019)
differ in `first`, `eps`, `types` and `pooling`.
"""
import jax
import jax.numpy as jnp
from flax import nnx

from distill.models import layers
from distill.models.functional import MAX_BLOCKS, Traits
from distill.types import Batch, Outputs

POOLING = {'tanh': jnp.tanh, 'relu': jax.nn.relu}
MASKED = -1e9         # added to the score of a padded key: its probability is exactly 0 in float32


class Bert(nnx.Module):
  """An encoder of `depth` blocks over at most `length` positions.

  `std` is that of the initial weights, BERT's `initializer_range`. Its 0.02 is half of 1/√width
  for BERT's 768; narrow models learn faster from more. `first` is the row of the position table
  that the first token has (RoBERTa: 2), `types` the number of token types (DistilBERT: 0).

  Outputs:
    embedding                     [b s d]    the embeddings, after their LayerNorm
    blockNN/hidden                [b s d]    the output of a block, NN = 00, 01, …
    blockNN/attention             [b h s s]  attention probabilities, before dropout
    blockNN/scores                [b h s s]  attention scores, before padding mask and softmax
    blockNN/query, key, value     [b s d]    heads side by side
    pooled                        [b d]
    logits                        [b c]
    words                         [b m v]    with `words`: the masked-word head at the positions
                                             `batch['positions']` [b m], or at all of them
  """
  traits = Traits(
      heads={'pooler': ('pooled', 'logits'), 'head': ('logits',), 'words': ('words',)},
      tables=('token/embedding', 'words/bias'),
      indexes={'tokens': 'token/embedding', 'types': 'type/embedding'},
      cut=('position/embedding', 'token/embedding', 'words/bias'),
      kin={'heads': 'blocks', 'first': 'position', 'eps': 'norm', 'pooling': 'pooler'},
      free=('dropout', 'words'),
      # A block's first matrices are split by outputs, its second by inputs (Megatron, Shoeybi 2019,
      # §3).
      splits={r'(query|key|value|up)/kernel': (1,), r'(query|key|value|up|words)/bias': (0,),
              r'(out|down)/kernel': (0,), r'token/embedding': (0, 1)})

  def __init__(self, *, vocabulary: int, length: int, classes: int, width: int, depth: int,
               heads: int, inner: int = 0, types: int = 2, dropout: float = 0.1,
               words: bool = False, std: float = 0.02, eps: float = 1e-12, first: int = 0,
               pooling: str = 'tanh', rngs: nnx.Rngs):
    if min(vocabulary, length, classes, width, depth, heads) < 1 or min(types, first, inner) < 0:
      raise ValueError('every size must be at least 1, types, first and inner at least 0')
    if width % heads:
      raise ValueError(f'width={width} is not divisible by heads={heads}')
    if depth > MAX_BLOCKS:
      raise ValueError(f'depth={depth} is more than {MAX_BLOCKS} blocks')
    if pooling not in POOLING:
      raise ValueError(f'pooling={pooling!r} is not one of {", ".join(POOLING)}')
    if std <= 0:
      raise ValueError(f'std={std} must be above 0')
    if not 0 <= dropout < 1:
      raise ValueError(f'dropout={dropout} is not in [0, 1)')
    self.length, self.first, self.dropout, self.pooling = length, first, dropout, pooling
    embedding = lambda entries: layers.Embedding(entries, width, std=std, rngs=rngs)
    self.token, self.position = embedding(vocabulary), embedding(first + length)
    self.type = embedding(types) if types else None
    self.norm = layers.LayerNorm(width, eps=eps)
    self.blocks = nnx.List([
        Block(width=width, heads=heads, inner=inner or 4 * width, dropout=dropout, std=std, eps=eps,
              rngs=rngs)
        for _ in range(depth)])
    self.pooler = layers.dense(width, width, std=std, rngs=rngs)
    self.head = layers.dense(width, classes, std=std, rngs=rngs)
    self.words = (Words(width=width, vocabulary=vocabulary, std=std, eps=eps, rngs=rngs) if words
                  else None)

  def __call__(self, batch: Batch, *, train: bool = False,
               key: jax.Array | None = None) -> Outputs:
    tokens = batch['tokens']
    b, s = tokens.shape
    if s > self.length:
      raise ValueError(f'{s} positions, but the model has {self.length}')
    keys = list(jax.random.split(key, len(self.blocks) + 2)) if train else [None] * (
        len(self.blocks) + 2)
    # Activations stay flat, [b·s d]: one matrix product a layer, and no copies between layouts.
    x = self.token(tokens.reshape(-1))
    if self.type is not None:
      x = x + self.type(batch['types'].reshape(-1))
    positions = self.position.embedding[self.first:self.first + s]
    x = (x.reshape(b, s, -1) + positions).reshape(b * s, -1)
    x = layers.dropout(self.norm(x), self.dropout, keys[0])
    outputs = {'embedding': x.reshape(b, s, -1)}
    bias = (1 - batch['mask'][:, None, None, :]) * MASKED            # [b 1 1 s]
    for i, block in enumerate(self.blocks):
      last = x
      x, block_outputs = block(x, bias, keys[i + 2])
      outputs |= {f'block{i:02d}/{name}': value for name, value in block_outputs.items()}
    hidden = x.reshape(b, s, -1)
    # Computed apart from `hidden`: if that isn't read, XLA drops the other rows of the block.
    lead, _ = self.blocks[-1](last, bias, keys[-1], positions=1)
    pooled = POOLING[self.pooling](self.pooler(lead))
    outputs |= {'pooled': pooled,
                'logits': self.head(layers.dropout(pooled, self.dropout, keys[1]))}
    if self.words is not None:
      where = batch.get('positions')
      at = hidden if where is None else jnp.take_along_axis(hidden, where[:, :, None], axis=1)
      outputs['words'] = self.words(at, self.token)
    return outputs


class Block(layers.Block):
  """Self-attention and a feed-forward layer, each added to its input and then normalised."""

  def __init__(self, *, width: int, heads: int, inner: int, dropout: float, std: float,
               eps: float, rngs: nnx.Rngs):
    square = lambda: layers.dense(width, width, std=std, rngs=rngs)
    # Three matrices, not one split in three: the split's gradient is a concatenation, a copy.
    self.query, self.key, self.value, self.out = square(), square(), square(), square()
    self.attention_norm = layers.LayerNorm(width, eps=eps)
    self.up = layers.dense(width, inner, std=std, rngs=rngs)
    self.down = layers.dense(inner, width, std=std, rngs=rngs)
    self.norm = layers.LayerNorm(width, eps=eps)
    self.heads, self.dropout = heads, dropout

  def forward(self, x: jax.Array, bias: jax.Array, key: jax.Array | None, positions: int = 0):
    """Runs the block on x [b·s d] and the scores' bias [b 1 1 s]; returns [b·n d] and its outputs.

    n is the number of first `positions` whose output is computed: all s unless given.
    """
    b, s, d = bias.shape[0], bias.shape[-1], x.shape[-1]
    n = positions or s
    keys = jax.random.split(key, 3) if key is not None else (None,) * 3
    rows = x.reshape(b, s, d)[:, :n].reshape(b * n, d)
    # Dropout keeps the same elements for every n.
    dropped = lambda z, key: layers.dropout(
        z.reshape(b, n, d), self.dropout, key, full_shape=(b, s, d)).reshape(b * n, d)
    q, k, v = self.query(rows), self.key(x), self.value(x)
    split = lambda z: z.reshape(b, -1, self.heads, d // self.heads)
    scores = jnp.einsum('bqhe,bkhe->bhqk', split(q) * (d // self.heads)**-0.5, split(k))
    probabilities = layers.softmax(scores.astype(jnp.float32) + bias).astype(x.dtype)
    if layers.has_fused_attention() and (key is None or self.dropout == 0):
      # Computed apart from `probabilities` and `scores`: if these aren't read, XLA drops them.
      context = jax.nn.dot_product_attention(split(q), split(k), split(v), bias)
    else:
      context = jnp.einsum('bhqk,bkhe->bqhe', layers.dropout(
          probabilities, self.dropout, keys[0], full_shape=(b, self.heads, s, s)), split(v))
    rows = self.attention_norm(rows + dropped(self.out(context.reshape(b * n, d)), keys[1]))
    rows = self.norm(rows + dropped(self.down(layers.gelu(self.up(rows))), keys[2]))
    whole = lambda z: z.reshape(b, -1, d)
    return rows, {'hidden': whole(rows), 'attention': probabilities, 'scores': scores,
                  'query': whole(q), 'key': whole(k), 'value': whole(v)}


class Words(nnx.Module):
  """The masked-word head: dense, GELU, LayerNorm, then the token embedding's transpose."""

  def __init__(self, *, width: int, vocabulary: int, std: float, eps: float, rngs: nnx.Rngs):
    self.dense = layers.dense(width, width, std=std, rngs=rngs)
    self.norm = layers.LayerNorm(width, eps=eps)
    self.bias, self.dot_general = nnx.Param(jnp.zeros(vocabulary)), jax.lax.dot_general

  def __call__(self, hidden: jax.Array, table: layers.Embedding) -> jax.Array:
    words = self.norm(layers.gelu(self.dense(hidden)))
    logits = self.dot_general(words, table.embedding[...].T, (((2,), (0,)), ((), ())),
                              preferred_element_type=words.dtype)
    return logits + self.bias[...]
