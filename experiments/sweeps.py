"""The runs that a config's sweep asks for: arms and seeds, resolved and checked."""
import dataclasses
import functools
import inspect
import pathlib
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill import flags, workdir
from distill.types import Status, Stop
from experiments import rows
from experiments.rows import VARIANT, Arm, words


@dataclasses.dataclass(frozen=True)
class Planned:
  """An arm at a seed, resolved; `base` is a short hash of the config as it stands, '' if not known.

  Hashes need JAX, by which it is known what a config's nodes configure.
  """
  file: str
  arm: Arm
  seed: int
  config: Mapping[str, Any]
  base: str = ''

  @functools.cached_property
  def sha256(self) -> str:
    """The name that rows have for the config."""
    from distill.pipelines.identities import config_sha256
    return rows.recorded(config_sha256(self.config))

  @property
  def name(self) -> str:
    return flags.name_of(self.file)

  @functools.cached_property
  def workdir(self) -> pathlib.Path:
    return workdir.default(self.name, self.config)


def arms(file: str) -> list[Arm]:
  """What the config's `sweep` yields; it is given the variant if it takes one."""
  path, _, variant = file.partition(':')
  try:
    sweep = runpy.run_path(path).get('sweep', lambda: [{}])
  except (Exception, SystemExit) as error:
    raise Stop(Status.CONFIG, f'{path}: {type(error).__name__}: {error}') from error
  given = [variant] if variant and inspect.signature(sweep).parameters else []
  try:
    found = list(sweep(*given))
  except Exception as error:
    raise Stop(Status.CONFIG, f'{path}: sweep: {type(error).__name__}: {error}') from error
  if not found:
    raise Stop(Status.CONFIG, f'{path}: sweep yields nothing: {{}} is the config as it stands')
  found = [{VARIANT: arm} if isinstance(arm, str) else arm for arm in found]
  for arm in found:
    if not isinstance(arm, Mapping):
      raise Stop(Status.CONFIG, f'{path}: sweep yields {arm!r}, neither a variant nor overrides by '
                 'dotted path')
    if {'seed', 'data.seed'} & arm.keys():
      raise Stop(Status.CONFIG, f'{path}: sweep sets a seed ({words(arm)}): --seeds does that')
    if variant and VARIANT in arm:
      raise Stop(Status.CONFIG, f'{path}: sweep yields the variant {arm[VARIANT]}: run {path} '
                 f'without :{variant}')
  return found


def plan(file: str, seeds: int) -> list[Planned]:
  """Every arm of every seed, seed by seed, resolved: a wrong override stops before any run."""
  from distill.pipelines.identities import config_sha256
  base = rows.recorded(config_sha256(_resolved(file, {}).to_dict()))[:8]
  return distinct([dataclasses.replace(each, base=base) for each in listed(file, seeds)],
                   lambda each: each.sha256)


def listed(file: str, seeds: int) -> list[Planned]:
  """The same without their base, and without a look whether two are one config."""
  told = [(arm, _resolved(file, {**arm, 'seed': 0, 'data.seed': 0})) for arm in arms(file)]
  found = []
  for seed in range(seeds):
    for arm, config in told:
      config.seed = config.data.seed = seed
      found.append(Planned(file, arm, seed, config.to_dict()))
  return found


def _resolved(file: str, arm: Arm) -> Any:
  """The config of an arm, a ConfigDict."""
  variant = f':{arm[VARIANT]}' if VARIANT in arm else ''
  return flags.parsed([f'--config={file}{variant}', *(
      f'--config.{path}={value}' for path, value in arm.items() if path != VARIANT)]).config


def distinct(planned: Sequence[Planned], named: Callable[[Planned], str]) -> list[Planned]:
  """The planned runs, once no two are named alike."""
  found = {}
  for each in planned:
    same = found.setdefault(named(each), each)
    if same is not each:
      raise Stop(Status.CONFIG, f'{each.file}: these are one config: {words(same.arm)} (seed '
                 f'{same.seed}) and {words(each.arm)} (seed {each.seed}): drop one from its sweep')
  return list(planned)


def only(part: str, planned: Sequence[Planned], file: str) -> list[Planned]:
  """The runs of the arm that is named so; without one, of the arms whose name holds it."""
  named = [p for p in planned if words(p.arm) == part]
  if found := named or [p for p in planned if part in words(p.arm)]:
    return found
  raise Stop(Status.CONFIG, f'--only={part} is in the name of no arm of {file}: '
             + '; '.join(dict.fromkeys(words(p.arm) for p in planned)))
