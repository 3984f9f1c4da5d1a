"""Built-in commands of `probe`; each module imports little until its command runs."""
