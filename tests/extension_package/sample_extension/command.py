"""A command."""


def greet(argv: list[str]) -> int:
    """Greet whoever is named."""
    print(f"hello {' '.join(argv)}")
    return 0
