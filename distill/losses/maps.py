"""Losses on feature maps [b h w c]: one value per example, independent of the other examples.

If heights and widths differ, the larger map is averaged to the smaller size by PyTorch's adaptive
pooling: output i of n is the mean of rows ⌊i·h/n⌋ to ⌈(i+1)·h/n⌉ - 1; these windows overlap if n
does not divide h.
"""
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from distill import maths

MIN_NEGATIVE_SHARE = 0.001  # a channel with a smaller share below 0 has a margin of 3 deviations
MIN_GAP = 1e-4          # eigenvalues that are nearer than this share of their sum count as equal


def at(student: Float[Array, 'b h w c'], teacher: Float[Array, 'b i j d'], *,
       p: float = 2.0) -> Float[Array, ' b']:
  """Attention transfer: maps of Σ|F|^p over channels, each at length 1 (Zagoruyko 2017, eq. 2).

  The mean over positions of the squared difference, as RepDistiller takes it; the paper's is half
  the square root of its sum. RepDistiller has F^p without the absolute value, which is the same
  for its even p. Widths may differ, and heights, of which the smaller is taken.
  """
  _check_powers(p=p)
  s, t = (_energy(maps, p) for maps in _aligned(student, teacher))
  return jnp.mean(jnp.square(s - t), axis=-1)


def ft(student: Float[Array, 'b h w c'], teacher: Float[Array, 'b i j d'], *,
       p1: float = 2.0, p2: float = 1.0) -> Float[Array, ' b']:
  """Factor transfer, between a translator's and a paraphraser's factors (Kim 2018).

  RepDistiller's: `at`'s maps with the power p1, and the mean over positions of |difference|^p2. The
  paper compares the factors themselves, at length 1 and without the mean over channels.
  """
  _check_powers(p1=p1, p2=p2)
  s, t = (_energy(maps, p1) for maps in _aligned(student, teacher))
  return jnp.mean(jnp.abs(s - t)**p2, axis=-1)


def nst(student: Float[Array, 'b h w c'], teacher: Float[Array, 'b i j d']) -> Float[Array, ' b']:
  """Neuron selectivity transfer: MMD² of the channels' maps, kernel (x·y)² (Huang 2017).

  Every channel's map is at length 1; kernels are means over pairs of channels, of which there may
  be more on one side. At least 0, but for rounding.
  """
  s, t = (maths.unit(_rows(maps), axis=1) for maps in _aligned(student, teacher))
  kernel = lambda x, y: jnp.mean(jnp.square(_between(x, y)), axis=(1, 2))
  return kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)


def fsp(student_first: Float[Array, 'b h w c'], student_last: Float[Array, 'b i j d'],
        teacher_first: Float[Array, 'b k l c'],
        teacher_last: Float[Array, 'b m n d']) -> Float[Array, ' b']:
  """Flow of the solution procedure: MSE of Gram matrices between two layers (Yim 2017, eq. 2).

  A matrix [c d] is the mean over positions of products of channels; the loss is the mean over its
  elements, as in RepDistiller, where the paper sums. The larger layer is pooled by means (the
  paper: by maxima). Widths are the same on both sides, resolutions need not be.
  """
  s, t = maths.pair(_flow(student_first, student_last), _flow(teacher_first, teacher_last))
  return jnp.mean(jnp.square(s - t), axis=(1, 2))


def ab(student: Float[Array, 'b h w c'], teacher: Float[Array, 'b h w c'], *,
       margin: float = 1.0) -> Float[Array, ' b']:
  """Activation boundaries: a squared hinge on the teacher's signs (Heo 2019, AAAI).

  Takes preactivations. Where the teacher's is above 0 the student's should pass `margin`, elsewhere
  fall below -margin. Summed over neurons, as in the paper; the authors' code takes 3/1000 of it.
  """
  maths.positive(margin=margin)
  s, t = maths.pair(student, teacher)
  _check_maps(s)
  short = jax.nn.relu(margin - jnp.where(t > 0, s, -s))
  return jnp.sum(jnp.square(short), axis=(1, 2, 3))


def ofd(student: Float[Array, 'b h w c'], teacher: Float[Array, 'b i j c'],
        scale: Float[Array, ' c'], bias: Float[Array, ' c']) -> Float[Array, ' b']:
  """Overhaul of feature distillation: partial L2 to a margin ReLU (Heo 2019, ICCV).

  Takes preactivations, and the scale and bias of the teacher's last BatchNorm: by these its values
  are N(bias, scale²), and the margin m of a channel is the mean of those below 0. The target is
  max(teacher, m); a student below it counts only if it is above 0. Summed over neurons. As in the
  authors' code m is -3 |scale| for a channel that is below 0 with probability 0.001 or less, where
  it jumps from -0.28 |scale|.
  """
  s, t = maths.pair(*_aligned(student, teacher))
  maths.agree(channels=s.shape[-1:], scale=scale.shape, bias=bias.shape)
  target = jnp.maximum(t, _margin(maths.wide(scale), maths.wide(bias)))
  near = (target <= 0) & (s <= target)
  return jnp.sum(jnp.where(near, 0, jnp.square(s - target)), axis=(1, 2, 3))


def hcl(student: Float[Array, 'b h w c'],
        teacher: Float[Array, 'b h w c']) -> Float[Array, ' b']:
  """Hierarchical context loss of knowledge review: MSE at several scales (Chen 2021, HCL).

  The weights are mdistiller's, the paper gives none: 1 for the map as it is, then 1/2, 1/4, 1/8 for
  those of 4×4, 2×2 and 1×1 means that are smaller than it, over their sum. One stage; a term for
  each. Sizes that 4 or 2 does not divide are pooled as the file says.
  """
  s, t = maths.pair(student, teacher)
  _check_maps(s)
  h, w = s.shape[1:3]
  sizes = [(h, w), *((n, n) for n in (4, 2, 1) if n < min(h, w))]
  levels = [jnp.mean(jnp.square(_pooled(s - t, *size)), axis=(1, 2, 3)) for size in sizes]
  weights = [0.5**n for n in range(len(levels))]
  return sum(w * level for w, level in zip(weights, levels, strict=True)) / sum(weights)


def vid(student: Float[Array, 'b h w c'], variance: Float[Array, ' c'],
        teacher: Float[Array, 'b i j c']) -> Float[Array, ' b']:
  """Variational information: -log N(teacher; student, variance) (Ahn 2019, eq. 5).

  `student` is the predicted mean, `variance` is above 0. Mean over neurons, where the paper sums;
  without the constant log √2π, and so below 0 for a good fit. RepDistiller pools a larger student
  before it predicts, we its prediction.
  """
  s, t = maths.pair(*_aligned(student, teacher))
  maths.agree(channels=s.shape[-1:], variance=variance.shape)
  v = maths.wide(variance)
  return jnp.mean(0.5 * (jnp.square(s - t) / v + jnp.log(v)), axis=(1, 2, 3))


def svd(student_first: Float[Array, 'b h w c'], student_last: Float[Array, 'b i j d'],
        teacher_first: Float[Array, 'b k l c'], teacher_last: Float[Array, 'b m n d'], *,
        k: int = 1) -> Float[Array, ' b']:
  """Relations between two layers' k main singular vectors over channels (KDSVD, Lee 2018).

  The vectors of [positions, channels] are weighed by the teacher's singular values at length 1; the
  loss is the sum over pairs of channels and vectors of the squared difference of exp(-(x - y)²/8).
  Each of the teacher's vectors is paired with the nearest, up to sign, of the student's first
  k + 3. LAPACK leaves the sign open; here it makes the sum of a vector positive. mdistiller
  decomposes [channels · height, width]; this follows RepDistiller and the authors.

  The gradient is that of single vectors. It treats nearly equal singular values as equal, where it
  would be infinite: such vectors don't rotate into each other.
  """
  first = _vectors(student_first, teacher_first, k)
  last = _vectors(student_last, teacher_last, k)
  s, t = maths.pair(*(jnp.exp(-jnp.square(x[:, :, None] - y[:, None]) / 8)
                 for x, y in zip(first, last, strict=True)))
  return jnp.sum(jnp.square(s - t), axis=(1, 2, 3))


def _check_powers(**hyper: float | jax.Array) -> None:
  """Raises a ValueError unless all are 1 or more: below 1 the gradient at 0 is infinite."""
  maths.scalar(**hyper)
  for name, value in hyper.items():
    if not 1 <= value < float('inf'):
      raise ValueError(f'{name}={value} is not a finite number of at least 1')


def _check_maps(*arrays: jax.Array) -> None:
  """Raises a ValueError unless all are maps [b h w c]."""
  for array in arrays:
    if array.ndim != 4:
      raise ValueError(f'maps must be [b h w c], not {list(array.shape)}')


def _aligned(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Pools both maps to the smaller height and width, in float32 or wider."""
  _check_maps(student, teacher)
  maths.agree(student=student.shape[:1], teacher=teacher.shape[:1])
  h, w = (min(sizes) for sizes in zip(student.shape[1:3], teacher.shape[1:3], strict=True))
  return _pooled(maths.wide(student), h, w), _pooled(maths.wide(teacher), h, w)


def _pooled(maps: Float[Array, 'b h w c'], h: int, w: int) -> Float[Array, 'b {h} {w} c']:
  """Averages maps to height h and width w by adaptive pooling."""
  for axis, count, along in ((1, h, 'bhwc,nh->bnwc'), (2, w, 'bhwc,nw->bhnc')):
    size = maps.shape[axis]
    if size != count:
      out, row = np.arange(count)[:, None], np.arange(size)
      in_window = (row >= out * size // count) & (row < -(-(out + 1) * size // count))
      means = jnp.asarray(in_window / in_window.sum(axis=1, keepdims=True), maps.dtype)
      maps = maths.times(along, maps, means)
  return maps


def _rows(maps: Float[Array, 'b h w c']) -> Float[Array, 'b hw c']:
  return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def _between(x: Float[Array, 'b p c'], y: Float[Array, 'b p d']) -> Float[Array, 'b c d']:
  """Sums products of channels over positions."""
  return maths.times('bpc,bpd->bcd', x, y)


def _energy(maps: Float[Array, 'b h w c'], p: float) -> Float[Array, 'b hw']:
  """Averages |x|^p over channels, scaled to length 1 over positions."""
  # The length is 1 at any scale: this scale keeps every power within the range of its type.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(maps), axis=(1, 2, 3), keepdims=True))
  scaled = jnp.abs(maps) / jnp.where(largest > 0, largest, 1)
  return maths.unit(jnp.mean(_rows(scaled**p), axis=-1))


def _flow(first: jax.Array, last: jax.Array) -> jax.Array:
  first, last = _aligned(first, last)
  return _between(_rows(first), _rows(last)) / (first.shape[1] * first.shape[2])


def _margin(scale: Float[Array, ' c'], bias: Float[Array, ' c']) -> Float[Array, ' c']:
  """Returns E[x | x < 0] of x ~ N(bias, scale²): bias - |scale| φ(z)/Φ(-z), z = bias/|scale|."""
  scale = jnp.abs(scale)
  z = jnp.clip(bias / jnp.maximum(scale, 1e-30), -30, 4)      # beyond, the quotient is 0, or unused
  below = jax.scipy.stats.norm.cdf(-z)
  mean = bias - scale * jax.scipy.stats.norm.pdf(z) / below
  return jnp.where(below > MIN_NEGATIVE_SHARE, mean, -3 * scale)


def _vectors(student: jax.Array, teacher: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """Returns the student's nearest and the teacher's k main vectors [b c k], times its values."""
  _check_maps(student, teacher)
  maths.agree(student=student.shape[::3], teacher=teacher.shape[::3])
  if not 1 <= k <= student.shape[-1]:
    raise ValueError(f'k={k} is not between 1 and the width {student.shape[-1]}')
  (values, t), (_, s) = _decomposed(teacher, k), _decomposed(student, k + 3)
  t = jnp.where(jnp.sum(t, axis=1, keepdims=True) < 0, -t, t)
  cosine = _between(s, t)
  best = jnp.argmax(jnp.abs(cosine), axis=1)[:, None]
  s = jnp.take_along_axis(s, best, axis=2)
  s = jnp.where(jnp.take_along_axis(cosine, best, axis=1) < 0, -s, s)
  weight = maths.unit(values)[:, None]
  return s * weight, t * weight


def _decomposed(maps: Float[Array, 'b h w c'],
                count: int) -> tuple[Float[Array, 'b k'], Float[Array, 'b c k']]:
  """Returns the largest singular values [b k] of [positions, channels], and their vectors."""
  x = _rows(maths.wide(maps))
  length = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True)))
  x = x / jnp.where(length > 0, length, 1)      # the vectors are the same for any length
  gram = _between(x, x)
  still = jax.lax.stop_gradient(gram)
  values, vectors = (part[..., ::-1] for part in jnp.linalg.eigh(still))
  # The first-order change of the eigenvectors: its value is 0, but it has their gradient. The
  # quotient is 1/gap, but bounded, and 0 for equal eigenvalues, and for a vector with itself.
  gap = values[:, None, :] - values[:, :, None]
  change = maths.times('bci,bcd,bdj->bij', vectors, gram - still, vectors)
  moved = vectors + maths.times('bci,bij->bcj', vectors, change * gap / (gap**2 + MIN_GAP**2))
  return jnp.sqrt(jnp.maximum(values[:, :count], 0)), moved[..., :count]
