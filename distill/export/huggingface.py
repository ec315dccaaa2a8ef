"""The folder that a model ships in, which `transformers` loads too where it has the model."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill import checkpoint
from distill.data import tokenizer as tokenizers
from distill.models import huggingface
from distill.teachers import Weights


def write(folder: Path, weights: Weights, card: Mapping[str, Any], tokenizer: str) -> None:
  """Weights, card and tokenizer; tensors and `config.json` in the names of `transformers`.

  A model that it doesn't have keeps our names: only `distill` reads that folder. A model of images
  has no tokenizer, ''; its card says how pixels are standardised.
  """
  arrays, config = weights[0] | weights[1], {}
  texts = {'tokenizer.json': tokenizer} if tokenizer else {}
  if (there := huggingface.named(card['model'], arrays, card['classes'])) is not None:
    arrays, config = there
    texts['tokenizer_config.json'] = json.dumps(_about(tokenizer, card, config), indent=2)
  checkpoint.export(folder, arrays, card, texts, config)


def _about(tokenizer: str, card: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
  """What `transformers` wants to know beside tokenizer.json, which it then takes as it is."""
  told = json.loads(tokenizer)
  words = {i: word for word, i in told['model']['vocab'].items()} | {
      token['id']: token['content'] for token in told['added_tokens']}
  special = {f'{name.strip("[]").lower()}_token': words[i]
             for name, i in tokenizers.special(tokenizer).items()}
  types = ('token_type_ids',) if 'type_vocab_size' in config else ()
  return {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': card['length'],
          'model_input_names': ['input_ids', *types, 'attention_mask'], **special}
