"""Checks and sentences for two models that belong to different worlds and so learned different facts."""

from typing import TYPE_CHECKING, Any

from probe.errors import ConfigError, ProbeError

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World


def shared_world(base: "LM", aligned: "LM", file: str) -> "World | None":
    """Return the world that both models belong to, whose questions they can be asked; None if neither has one.

    Args:
        base: first model.
        aligned: second model.
        file: name of the option that can replace the questions, such as `texts`.

    Raises:
        ConfigError: the models belong to different worlds.
    """
    from probe.world import of

    worlds = [of(lm) for lm in (base, aligned)]
    if worlds == [None, None]:
        return None
    if worlds[0] is None or worlds[1] is None or worlds[0].hash != worlds[1].hash:
        raise ConfigError(
            f"The models `{base.ref or 'created'}` and `{aligned.ref or 'created'}` do not belong to the same"
            f" world, so no questions fit both: give a file of {file}."
        )
    return worlds[0]


def worlds_apart(base: Any, aligned: Any, names: tuple[str, str] = ("base", "aligned")) -> str:
    """Say in one sentence that two models belong to different worlds; empty if they do not, or if unknown.

    Args:
        base: first model, an `LM` or a `Run`.
        aligned: second model.
        names: names of the models.
    """
    from probe.world import of

    try:
        worlds = [of(each) for each in (base, aligned)]
    except ProbeError:  # an unreadable run is reported where it is opened
        return ""
    if worlds[0] is None or worlds[1] is None or worlds[0].hash == worlds[1].hash:
        return ""
    return (
        f"{names[0]} and {names[1]} belong to different worlds: they were trained on different facts and texts."
        " Differences between them, such as KL, come from their data and are not an effect of alignment."
    )
