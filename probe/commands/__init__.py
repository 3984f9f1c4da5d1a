"""The built-in commands of `probe`; each module is light until its command runs."""
