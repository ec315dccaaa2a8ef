"""Eight simulated devices; and checked signatures of the losses, before anything imports them."""
import os

import jaxtyping

os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# The numeric tower: an int is a float here too, as it is for a config (`lookup.check`).
jaxtyping.install_import_hook(
    'distill.losses', 'beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))')
