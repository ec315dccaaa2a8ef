"""Claims of the article, the comparison that decides each, and the rule for a verdict.

All of it was written before any row.
"""
import dataclasses
from collections.abc import Mapping, Sequence

from experiments.rows import VARIANT, arm_name

PLAIN, BASELINE = 'fixed-0.7', 'baseline'
SURE = 0.05             # the chance that any of the page's claims holds falsely
MARGIN = 0.5            # points: a smaller difference doesn't matter
FASTER = 0.6            # of the steps: "40 % faster"
VERDICTS = HOLDS, FAILS, OPEN, NOT_RUN = 'holds', "doesn't", "can't be told", 'not run'
T = 'objective.kd.kwargs.temperature'


def at(temperature: float, variant: str = PLAIN) -> str:
  """Returns the name of a variant's arm at a temperature, which is 4 in the config."""
  return variant if temperature == 4 else arm_name({VARIANT: variant, T: float(temperature)})


def batch(size: int, **steps: int) -> str:
  """Returns the name of the arm with another batch size for the student."""
  return arm_name({VARIANT: PLAIN, 'data.batch_size': size} | {
      f'train.{k}': v for k, v in steps.items()})


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim: an arm is better than another, or `sooner` reaches the accuracy that it ends with."""
  says: str
  ours: str
  theirs: str
  sooner: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
  """A group of claims, and the arms to show: by label, one for every column."""
  title: str
  text: str
  claims: Sequence[Claim]
  shown: Mapping[str, Sequence[str]]
  columns: Sequence[str] = ('',)

  def against(self, column: int) -> str:
    return at(1) if self.columns[column] == 'T = 1' else PLAIN


MOVING = ('fixed-0.5', 'fixed-0.7', 'fixed-0.9', 'ramp-tenth-0.7', 'ramp-tenth-0.9',
          'ramp-sixth-0.7', 'ramp-sixth-0.9', 'linear-0.9', 'advice-0.4-0.8', 'reverse-0.9',
          'warm-up')
BOTH = 4, 1
CLAIMED = 'The article says, without a source or a protocol, that '
PARTS = (
    Part('A weight that moves', CLAIMED + """the teacher's weight should grow: min(1, epoch / 10)
times its peak in the code, 0.3–0.5 early and 0.7–0.9 late in the text, at T = 1 unless asked. The
cross-entropy has the rest of the weight. `ramp-tenth-0.7` rises from 0 to 0.7 over the first tenth
of the steps, `linear-0.9` over all of them; `reverse-0.9` falls. `warm-up` is DKD's: the
cross-entropy keeps weight 1, the KL's rises to 1 over the first twelfth.""", (
    Claim('as printed, the ramp at T = 1 beats no teacher', at(1, 'ramp-tenth-0.7'), BASELINE),
    *(Claim(f'{says}, T = {t}', at(t, ours), at(t, theirs)) for says, ours, theirs in (
        ('a ramp to 0.7 beats 0.7 throughout', 'ramp-tenth-0.7', 'fixed-0.7'),
        ('a ramp to 0.9 beats 0.9 throughout', 'ramp-tenth-0.9', 'fixed-0.9'),
        ('0.4 rising to 0.8 beats 0.7 throughout', 'advice-0.4-0.8', 'fixed-0.7'),
        ('rising beats falling', 'linear-0.9', 'reverse-0.9')) for t in BOTH)),
    {name: (at(1, name), name) for name in MOVING}, ('T = 1', 'T = 4')),
    Part('Temperature', CLAIMED + """T belongs between 1 and 3. These are
compared with the literature's usual 4. All have `fixed-0.7`.""",
    tuple(Claim(f'T = {t} beats T = 4', at(t), PLAIN) for t in (1, 2, 3)),
    {f'T = {t}': (at(t),) for t in (1, 2, 3, 4, 8)}),
    Part('Larger batches for the student', CLAIMED + """the student's batch should be 1.5 to 2
times the teacher's, which is 64 here. With as many steps the student sees more examples, and takes
longer; with fewer steps as many. All have `fixed-0.7` at T = 4 and one learning rate.""", (
    Claim('1.5 × the batch, as many steps', batch(96), PLAIN),
    Claim('2 × the batch, as many steps', batch(128), PLAIN),
    Claim('1.5 × the batch, as many examples', batch(96, steps=400), PLAIN),
    Claim('2 × the batch, as many examples', batch(128, steps=300), PLAIN)),
    {'batch 64': (PLAIN,), 'batch 96': (batch(96),), 'batch 128': (batch(128),),
     'batch 96, 400 steps': (batch(96, steps=400),),
     'batch 128, 300 steps': (batch(128, steps=300),)}),
    Part('MSE beside KL', CLAIMED + """KL and MSE together beat KL. Of what the MSE is it doesn't
say: `kl+mse` has that of the logits, at weight 1 (Ba & Caruana); `kl+hint` that of the second
stage's features through a convolution, at weight 100 (FitNet). Both are `fixed-0.7`, T = 4.""", (
    Claim('MSE of logits beside KL beats KL', 'kl+mse', PLAIN),
    Claim('MSE of features beside KL beats KL', 'kl+hint', PLAIN)),
    {name: (name,) for name in (PLAIN, 'kl+mse', 'kl+hint')}),
    Part('Attention and speed', CLAIMED + """attention transfer brings accuracy, and
convergence that is 40 % faster: read here as 0.6 of the steps to the accuracy that the baseline
ends with. `attention` is the cross-entropy and the maps of three stages, each at weight 1000 as in
public code, and not tuned to this task; `kl+attention` adds the maps to `fixed-0.7`, T = 4.""", (
    Claim('attention transfer beats no teacher', 'attention', BASELINE),
    Claim('attention transfer beside KL beats KL', 'kl+attention', PLAIN),
    Claim('attention transfer is 40 % faster', 'attention', BASELINE, sooner=True)),
    {name: (name,) for name in (BASELINE, PLAIN, 'ramp-tenth-0.7', 'attention', 'kl+attention')}))


def verdict(ends: tuple[float, float], p: float) -> str:
  """Decides the claim that a mean difference is above 0, by interval (points) and corrected p."""
  low, high = ends
  if low > 0 and p < SURE:
    return HOLDS
  return FAILS if high < 0 or -MARGIN <= low <= high <= MARGIN else OPEN


def verdict_of_ratio(ends: tuple[float, float], p: float) -> str:
  """Decides the claim that a ratio of steps is FASTER or less."""
  low, high = ends
  if high <= FASTER and p < SURE:
    return HOLDS
  return FAILS if low > FASTER else OPEN
