"""Installs distill; `pip install -e .` for use, `pip install -e '.[test]'` to run the tests."""
from setuptools import find_packages, setup

setup(
    name='distill',
    version='0.1.0',
    description='Knowledge distillation in JAX: one training loop, one objective, many methods.',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['distill*']),
    package_data={'distill': ['py.typed'], 'distill.report': ['*.html', '*.json'],
                  'distill.formats': ['*.md']},
    install_requires=[
        'absl-py>=2.1',
        'array_record>=0.8',
        'flax>=0.12.8,<0.13',
        'grain>=0.2.18',
        'importlib_resources>=6',           # tensorflow-datasets needs it and doesn't say so
        'jax>=0.10,<0.11.1',                # flax 0.12.8 subclasses what 0.11.1 removed
        'jaxtyping>=0.3',
        'jinja2>=3.1',
        'matplotlib>=3.9',
        'ml_collections>=1.0',
        'numpy>=2.0',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12.8',         # flax brings it; the corpus reads its docstrings
        'safetensors>=0.5',
        # With a marker they are no part of the corpus of docstrings, which would not be that of the
        # recorded runs. The digits are in scikit-learn.
        "jsonschema>=4.20; python_version >= '3.11'",
        "scikit-learn>=1.5; python_version >= '3.11'",
        'scipy>=1.15',
        'tensorboardX>=2.6',
        'tensorflow-datasets>=4.9.8',
        'tokenizers>=0.21',
    ],
    extras_require={
        'cuda': ['jax[cuda12]>=0.10,<0.11.1'],
        'tpu': ['jax[tpu]>=0.10,<0.11.1'],
        'export': ['flatbuffers>=24'],      # jax.export needs it and doesn't bring it
        'hub': ['huggingface_hub>=0.30'],
        # What speed and weights are compared with. The CPU build of torch is meant: the plain one
        # brings gigabytes of CUDA.
        'peers': ['torch>=2.13', 'transformers>=5'],
        'test': ['beartype>=0.20', 'flatbuffers>=24', 'hypothesis>=6', 'pytest>=8',
                 'pytest-xdist>=3.8', 'ruff>=0.9'],
    },
)
