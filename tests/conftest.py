"""In tests the signatures of the losses are checked; the hook precedes every import of them."""
import jaxtyping

# The numeric tower: an int is a float here too, as it is for a config (`lookup.check`).
jaxtyping.install_import_hook(
    'distill.losses', 'beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))')
