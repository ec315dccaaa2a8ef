"""Trials of a config's sweep: its arms at their seeds, resolved and checked."""
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
from experiments.rows import VARIANT, Arm, arm_name


@dataclasses.dataclass(frozen=True)
class Trial:
  """An arm at a seed, resolved; `base` is a short hash of the config as it stands, '' if not known.

  Hashes load JAX: only then is it known which defaults a config's nodes have.
  """
  file: str
  arm: Arm
  seed: int
  config: Mapping[str, Any]
  base: str = ''

  @functools.cached_property
  def sha256(self) -> str:
    """Hash that rows have for the config."""
    from distill.pipelines.identities import config_sha256
    return rows.recorded(config_sha256(self.config))

  @property
  def name(self) -> str:
    return flags.name_of(self.file)

  @functools.cached_property
  def workdir(self) -> pathlib.Path:
    return workdir.default(self.name, self.config)


def arms(file: str) -> list[Arm]:
  """Returns the arms that a config's `sweep` yields; a sweep with an argument gets the variant."""
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
      raise Stop(Status.CONFIG, f'{path}: sweep sets a seed ({arm_name(arm)}): --seeds does that')
    if variant and VARIANT in arm:
      raise Stop(Status.CONFIG, f'{path}: sweep yields the variant {arm[VARIANT]}: run {path} '
                 f'without :{variant}')
  return found


def plan(file: str, seeds: int) -> list[Trial]:
  """Returns all trials, seed by seed, resolved, so that a wrong override stops before any run."""
  from distill.pipelines.identities import config_sha256
  base = rows.recorded(config_sha256(_resolved(file, {}).to_dict()))[:8]
  trials = [dataclasses.replace(trial, base=base) for trial in list_trials(file, seeds)]
  return check_distinct(trials, lambda trial: trial.sha256)


def list_trials(file: str, seeds: int) -> list[Trial]:
  """Returns all trials without their `base`, unchecked: two may have one config."""
  resolved = [(arm, _resolved(file, {**arm, 'seed': 0, 'data.seed': 0})) for arm in arms(file)]
  found = []
  for seed in range(seeds):
    for arm, config in resolved:
      config.seed = config.data.seed = seed
      found.append(Trial(file, arm, seed, config.to_dict()))
  return found


def _resolved(file: str, arm: Arm) -> Any:
  """Returns the config of an arm, a ConfigDict."""
  variant = f':{arm[VARIANT]}' if VARIANT in arm else ''
  return flags.parsed([f'--config={file}{variant}', *(
      f'--config.{path}={value}' for path, value in arm.items() if path != VARIANT)]).config


def check_distinct(trials: Sequence[Trial], key: Callable[[Trial], str]) -> list[Trial]:
  """Returns the trials after a check that no two have the same key."""
  found = {}
  for trial in trials:
    same = found.setdefault(key(trial), trial)
    if same is not trial:
      raise Stop(Status.CONFIG, f'{trial.file}: these are one config: {arm_name(same.arm)} (seed '
                 f'{same.seed}) and {arm_name(trial.arm)} (seed {trial.seed}): drop one from its '
                 'sweep')
  return list(trials)


def select(name: str, trials: Sequence[Trial], file: str) -> list[Trial]:
  """Returns the trials of the arm named `name`, else of the arms whose name contains it."""
  named = [trial for trial in trials if arm_name(trial.arm) == name]
  if found := named or [trial for trial in trials if name in arm_name(trial.arm)]:
    return found
  raise Stop(Status.CONFIG, f'--only={name} is in the name of no arm of {file}: '
             + '; '.join(dict.fromkeys(arm_name(trial.arm) for trial in trials)))
