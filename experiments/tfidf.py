"""Trains TF-IDF with logistic regression on the texts of a config, as a reference result.

python -m experiments.tfidf configs/bert.py --out=experiments/tfidf

It writes one row: `teacher` has every label, as the config's teacher has, and `baseline` the share
of labels that the config's baseline has. Cross-validation on those labels chooses the
regularisation. It needs scikit-learn, which the extra `test` installs.
"""
import datetime
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from distill import command_line, flags, lookup, streams
from distill.measure import machine
from distill.pipelines.identities import config_sha256
from distill.pipelines.judge import source
from distill.tasks.classification import Classification
from distill.types import Status, Stop
from experiments import rows

METHOD = {'method': 'TF-IDF, logistic regression'}
STRENGTHS = (1.0, 3.0, 10.0, 30.0)


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('experiments.tfidf', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser('experiments.tfidf', __doc__, 'configs/NAME.py --out=DIR')
  parser.add_argument('config', metavar='configs/NAME.py', help='whose texts they are')
  parser.add_argument('--out', metavar='DIR', required=True, type=pathlib.Path,
                      help='the folder of the experiment')
  options = parser.parsed(arguments)
  options.out.mkdir(parents=True, exist_ok=True)
  row = make_row(options.config, options.out.absolute().name)
  rows.append(options.out / 'results.jsonl', rows.rounded(row))
  print({name: model['quality'] for name, model in row['models'].items()})
  return int(Status.DONE)


def make_row(file: str, experiment: str) -> dict[str, Any]:
  """Trains and evaluates on a config's data; returns the row."""
  started = time.monotonic()
  config = flags.parsed([f'--config={file}']).config.to_dict()
  missing = {'data', 'evaluate', 'seed'} - config.keys()
  if missing:
    raise Stop(Status.CONFIG, f'{file} has no {min(missing)}')
  data = lookup.build('data', source(config['data']), 'data')
  train, test = data.splits['train'], data.splits[config['evaluate']['split']]
  if not len(train.raw):
    raise Stop(Status.CONFIG, f'{file}: {data.name} has no texts, but {data.modality.noun}')
  task = Classification(classes=len(data.names))
  known = train.known
  few = known & (train.index['hash01'] < config['data']['labelled'])
  models = {name: {'role': role, 'saw': {'texts': int(seen.sum()), 'labels': int(seen.sum())},
                   'n': len(test), 'retention': None, 'gain': None,
                   'quality': scores(task, train, test, seen)}
            for name, role, seen in (('all labels', 'teacher', known),
                                     ('few labels', 'baseline', few))}
  seconds, now = time.monotonic() - started, datetime.datetime.now(datetime.UTC)
  return {'schema': 1, 'experiment': experiment, 'door': 'experiments.tfidf', 'config': file,
          'base': rows.recorded(config_sha256(config))[:8], 'arm': METHOD, 'seed': config['seed'],
          'data_seed': config['data']['seed'],
          'config_sha256': rows.recorded(config_sha256(config | METHOD)),
          'time': now.isoformat(timespec='seconds'), 'commit': rows.commit(), 'seconds': seconds,
          'metric': {'name': task.primary, **task.metrics[task.primary]}, 'models': models,
          'training': {}, 'data': {'name': data.name, 'fingerprint': data.fingerprint},
          'hardware': machine.hardware(),
          'versions': {**machine.versions(), 'scikit-learn': version('scikit-learn')}}


def scores(task: Classification, train, test, seen: np.ndarray) -> Mapping[str, float]:
  """Returns the task's metrics of a classifier that was trained on the labels `seen` [n]."""
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.linear_model import LogisticRegression
  from sklearn.model_selection import GridSearchCV
  from sklearn.pipeline import make_pipeline

  whole = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=1000))
  search = GridSearchCV(whole, {'logisticregression__C': STRENGTHS}, cv=3)
  search.fit([train.raw[i] for i in np.flatnonzero(seen)], train.index['label'][seen])
  chances = search.predict_proba(test.raw)
  label = test.index['label']
  return task.score({'id': np.arange(len(label)), 'label': label,
                     'prediction': search.classes_[chances.argmax(1)], 'probabilities': chances})


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
