"""Packages of the wheel: two of the sample runs are one more, so that the first chart needs no checkout."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["probe*", "trainers*", "dashboard*"]), "probe.sample_runs"],
    package_dir={"probe.sample_runs": "sample_runs"},
)
