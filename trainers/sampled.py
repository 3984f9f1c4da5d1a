"""What every method that samples starts with: prompts, rewards, a frozen reference, and what it is measured by."""

from probe.rows import Row, Rows
from trainers.online import OnlineConfig, load_prompts
from trainers.record import Origin
from trainers.rewards import model_spec, plain, resolve
from trainers.rollout import Sampler
from trainers.session import Session
from trainers.trainee import Trainee
from trainers.yardstick import Yardstick


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
    rewards = resolve(config.reward, world, session.device, trainee.lm.tokenizer)
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
