"""What a command does before it computes."""
import os


def keep_programs() -> None:
  """Has JAX keep compiled programs on disk, in `$JAX_COMPILATION_CACHE_DIR` or `~/.cache/distill`.

  All of them: a start is many small programs.
  """
  import jax  # here: a mistake on the command line is answered without it
  jax.config.update('jax_compilation_cache_dir', os.environ.get(
      'JAX_COMPILATION_CACHE_DIR', os.path.expanduser('~/.cache/distill/xla')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
