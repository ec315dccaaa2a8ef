"""The folder that a model ships in, which `transformers` loads too where it has the model."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill import checkpoint
from distill.models import huggingface
from distill.teachers import Weights


def write(folder: Path, weights: Weights, card: Mapping[str, Any], tokenizer: str) -> None:
  """Weights, card and tokenizer; tensors and `config.json` in the names of `transformers`.

  A model that it doesn't have keeps our names: only `distill` reads that folder.
  """
  arrays, config = weights[0] | weights[1], {}
  if (there := huggingface.named(card['model'], arrays, tuple(card['classes']))) is not None:
    arrays, config = there
  checkpoint.export(folder, arrays, card, {
      'tokenizer.json': tokenizer, **_beside(json.loads(tokenizer)['model'], card)}, config)


def _beside(model: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, str]:
  """What `transformers` wants beside tokenizer.json to know the special tokens."""
  if model['type'] != 'WordPiece':
    return {}
  special = {f'{name}_token': f'[{name.upper()}]' for name in ('pad', 'unk', 'cls', 'sep', 'mask')}
  config = {'tokenizer_class': 'BertTokenizer', 'model_max_length': card['length'], **special}
  vocabulary = sorted(model['vocab'], key=model['vocab'].get)
  return {'tokenizer_config.json': json.dumps(config, indent=2),
          'vocab.txt': ''.join(f'{word}\n' for word in vocabulary)}
