"""A model as a StableHLO program, which answers without the code of the model it was made from."""
import jax
from jax import export

from distill.types import Batch, Outputs, Status, Stop

PROGRAM = 'model.stablehlo'         # the file in an export
EXTRA = "needs the package flatbuffers: pip install 'distill[export]'"


class Program:
  """A forward pass in evaluation mode, its weights inside, that is called as a model is.

  `data` is what `jax.export` serialised, `place` its folder and `written` the JAX that wrote it,
  for the error line. It takes any number of examples, and texts of any width up to its model's.

  Outputs:
    logits    [b c]
  """

  def __init__(self, data: bytes, place: str, written: str):
    try:
      self._exported = made = export.deserialize(bytearray(data))
      lowest, highest = (export.minimum_supported_calling_convention_version,
                         export.maximum_supported_calling_convention_version)
      if not lowest <= made.calling_convention_version <= highest:
        raise ValueError(f'its calling convention is {made.calling_convention_version}, and this '
                         f'JAX has {lowest} to {highest}')
      (fields,), _ = jax.tree.unflatten(made.in_tree, made.in_avals)
    except ImportError:
      raise Stop(Status.CHECKPOINT, f'{place}: a StableHLO program {EXTRA}') from None
    except Exception as error:        # flatbuffers and MLIR have no class of errors in common
      why = (str(error).splitlines() or [type(error).__name__])[0]
      raise Stop(Status.CHECKPOINT, f'{place}: jax {jax.__version__} cannot read what jax '
                 f'{written} wrote ({why}); JAX promises six months: export the model again, or '
                 f'pip install jax=={written}') from error
    self.fields, self.platforms = tuple(fields), made.platforms
    if (here := export.default_export_platform()) not in self.platforms:
      raise Stop(Status.CHECKPOINT, f'{place} runs on {", ".join(self.platforms)}, and this is '
                 f'{here}: set JAX_PLATFORMS={self.platforms[0]}, or export the model for {here}')

  def __call__(self, params: dict, rest: dict, batch: Batch, *, train: bool = False,
               key: jax.Array | None = None) -> tuple[Outputs, dict]:
    if train or params or rest:
      raise ValueError('a program has its weights inside, and cannot be trained')
    return self._exported.call({name: batch[name] for name in self.fields}), rest
