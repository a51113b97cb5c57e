"""Packaging of gill. Ranges are here, exact versions in `requirements.txt`."""

from pathlib import Path

from setuptools import find_packages, setup

RETRIEVAL = ["datasets>=4.0", "faiss-cpu>=1.9"]
TRAINING = ["accelerate>=1.10", "datasets>=4.0", "peft>=0.18", "pyyaml>=6.0", "tensorboard>=2.15"]
EVALUATION = ["evaluate>=0.4.5", "datasets>=4.0", "scipy>=1.11", "torchmetrics>=1.6"]
CARD = ["jinja2>=3.1", "pyyaml>=6.0"]

setup(
    name="gill",
    version="0.1.0",
    description="GILL for the Hugging Face Hub: language models that read, retrieve and generate images",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(exclude=["tests", "tests.*", "benchmarks"]),
    include_package_data=True,
    package_data={
        "hub_card": ["*.md", "*.jinja", "*.md.jinja"],
        "training_gill": ["recipes/*.yaml"],
        "evaluation_gill": ["metrics/*/*"],
        "picturebook": ["adapters.yaml", "checkpoint/**/*"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.20,<6",
        "diffusers>=0.41",
        "huggingface_hub>=2.4,<3",
        "safetensors>=0.5",
        "accelerate>=1.10",
        "numpy>=1.26",
        "pillow>=11.0",
        "jinja2>=3.1",
    ],
    extras_require={
        "retrieval": RETRIEVAL,
        "training": TRAINING,
        "evaluation": EVALUATION,
        "card": CARD,
        "all": sorted({*RETRIEVAL, *TRAINING, *EVALUATION, *CARD}),
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
