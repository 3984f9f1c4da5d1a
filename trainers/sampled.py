"""What every method that samples starts with: prompts, rewards, a frozen reference, and what it is measured by."""

from collections.abc import Mapping

from probe.rows import Row, Rows
from probe.runs import open_run
from trainers.checkpoint import last_checkpoint
from trainers.config import OnlineConfig, check_unchanged
from trainers.online import load_prompts
from trainers.record import Origin
from trainers.rewards import model_spec, plain, resolve
from trainers.rollout import Sampler
from trainers.session import Session
from trainers.trainee import Trainee
from trainers.yardstick import Yardstick


def hold_options(config: OnlineConfig) -> Mapping[str, str | None]:
    """Hold a run that is resumed to its options before any code is imported; gives what it knows of its rewards.

    Raises:
        ConfigError, RunError: see `trainers.config.check_unchanged`.
    """
    run, saved = open_run(config.out), last_checkpoint(config)
    check_unchanged(config, run, int(saved.name) if saved else 0)
    data = run.meta.get("data")
    rewards = data.get("rewards") if isinstance(data, dict) else None
    return rewards if isinstance(rewards, dict) else {}


def sampled(
    session: Session, config: OnlineConfig, trainee: Trainee, rows: Rows[Row] | None, beta: float | None = None
) -> tuple[Sampler, Origin]:
    """The sampler of a training and its origin; `trainee` must still be what training starts from.

    Args:
        session: this process among all.
        config: prompts, rewards and how to sample.
        trainee: the policy, which is the reference too as it is now.
        rows: of the file of prompts, if they come from one.
        beta: price of KL in the objective; None where it has none that stays.

    Raises:
        ConfigError, DataError, ModelError: prompts or a reward cannot be used; the message says which.
    """
    reference = trainee.reference()
    world, prompts = load_prompts(session, config, trainee.lm, rows)
    stored = hold_options(config) if config.resume else None
    rewards = resolve(config.reward, world, session.device, trainee.lm.tokenizer, stored)
    origin = Origin(
        parent=config.base,
        reference=config.base,
        reward_model=model_spec(rewards),
        world=world,
        data=prompts.data | {"reference": trainee.fingerprint, "rewards": {r.spec: r.fingerprint for r in rewards}},
        prompts=prompts.capture,
        yardstick=Yardstick.of(
            session,
            trainee,
            world,
            reward=plain(rewards, config.weights),
            beta=beta,
            kinds=config.enumerable,
            reference=reference,
        ),
    )
    return Sampler(session, trainee, config, prompts.items, rewards, reference), origin
