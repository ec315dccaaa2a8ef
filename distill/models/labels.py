"""The labels and the problem of a head, in a config of Hugging Face `transformers`."""
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from distill.types import Status, Stop

CONFIG = 'config.json'                      # as error lines call it
REGRESSION, SINGLE, SEVERAL = PROBLEMS = (
    'regression', 'single_label_classification', 'multi_label_classification')
SHOWN = 60                                  # letters of a value in an error line


def read(hf_config: Mapping[str, Any], classes: int,
         folder: pathlib.Path) -> tuple[tuple[str, ...], bool]:
  """Returns the labels of a head's outputs, and whether an example may have several of them.

  Labels are () without a head, and for a regression.
  """
  if not classes:
    return (), False
  problem = hf_config.get('problem_type')
  if problem is not None and problem not in PROBLEMS:
    raise fault(folder, f'{CONFIG} says problem_type={short(problem)}; known are '
                + ', '.join(PROBLEMS))
  count = hf_config.get('num_labels', classes)
  if count != classes or isinstance(count, bool):
    raise fault(folder, f'the head has {classes} outputs, but {CONFIG} says num_labels='
                + short(count))
  if problem == (REGRESSION if classes > 1 else SINGLE):
    raise Stop(Status.MISFIT, f'{folder}: {CONFIG} says problem_type={problem!r} of a head of '
               f'{classes} output{"s" * (classes > 1)}: a regression is known of one, a '
               'classification of several')
  if classes < 2 and problem != SEVERAL:
    return (), False
  labels = _label_names(hf_config, classes, folder)
  _check_inverse(hf_config, labels, folder)
  return labels, problem == SEVERAL


def _label_names(hf_config: Mapping[str, Any], classes: int,
                 folder: pathlib.Path) -> tuple[str, ...]:
  """Returns the names of `id2label` in order; stops at a missing name or one that occurs twice."""
  named = (hf_config['id2label'] if 'id2label' in hf_config else
           {str(i): f'LABEL_{i}' for i in range(classes)})
  if not isinstance(named, dict) or named.keys() != {str(i) for i in range(classes)}:
    raise fault(folder, f'the head has {classes} outputs, but {CONFIG} says id2label='
                + short(named))
  labels, seen = [], {}
  for i in range(classes):
    label = named[str(i)]
    if isinstance(label, bool) or not isinstance(label, str | int) or not _printable(str(label)):
      raise fault(folder, f'{CONFIG} says that id2label of {i} is {short(label)}, which is no '
                  'name')
    labels.append(str(label))
    alike = unicodedata.normalize('NFC', labels[i].strip())
    if alike in seen:
      raise fault(folder, f'{CONFIG} calls the outputs {seen[alike]} and {i} of the head by one '
                  f'name, {short(labels[i])}: give each its own in id2label')
    seen[alike] = i
  return tuple(labels)


def _check_inverse(hf_config: Mapping[str, Any], labels: Sequence[str],
                   folder: pathlib.Path) -> None:
  """Stops if `label2id` contradicts `id2label`; LABEL_0, LABEL_1, … in it are ignored."""
  inverse = hf_config.get('label2id') or {}
  if not isinstance(inverse, dict):
    raise fault(folder, f'{CONFIG} says label2id={short(inverse)}, which is no table of names')
  if all(re.fullmatch(r'LABEL_\d+', name) for name in inverse):
    return
  for i, label in enumerate(labels):
    if str(inverse.get(label)) != str(i):
      raise fault(folder, f'{CONFIG} says id2label of {i} is {short(label)}, but label2id of it '
                  f'is {short(inverse.get(label))}: which is right?')


def _printable(text: str) -> bool:
  """Tells whether a text is not blank and can be written as UTF-8: no lone surrogates."""
  return bool(text.strip()) and not re.search('[\ud800-\udfff]', text)


def short(value: Any) -> str:
  """Shortens the spelling of a file's value for an error line."""
  spelled = repr(value)
  return spelled if len(spelled) <= SHOWN else spelled[:SHOWN - 1] + '…'


def fault(path: pathlib.Path, line: str) -> Stop:
  """Returns the error of a damaged folder."""
  return Stop(Status.CHECKPOINT, f'{path}: {line}')
