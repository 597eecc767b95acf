"""Names of the Triton models of one production model: candidate, TensorRT plans, drift score."""

PLANS_SUFFIX = "_trt"
SCORE_SUFFIX = "_drift"
CANDIDATE_SUFFIX = "_candidate"
DEMO_RUN = "-demo"
"""Suffix of a demonstration's run in a manifest."""


def plans_model(model: str) -> str:
    """Return the name of a model's TensorRT plans.

    >>> plans_model("lob")
    'lob_trt'
    """
    return model + PLANS_SUFFIX


def score_model(model: str) -> str:
    """Return the name of a model's drift score.

    >>> score_model("lob")
    'lob_drift'
    """
    return model + SCORE_SUFFIX


def companions(model: str) -> tuple[str, ...]:
    """Return the names of a model's companions; their versions have the numbers of the model's.

    >>> companions("lob"), companions("lob_trt")
    (('lob_trt', 'lob_drift'), ())
    """
    return (plans_model(model), score_model(model)) if followed_model(model) == model else ()


def family(model: str) -> tuple[str, ...]:
    """Return the names of a production model, its candidate and the companions of both.

    >>> family("lob")[:4]
    ('lob', 'lob_trt', 'lob_drift', 'lob_candidate')
    """
    return tuple(name for base in (model, candidate_model(model)) for name in (base, *companions(base)))


def followed_model(model: str) -> str:
    """Return the model of a companion; any other name is returned unchanged.

    >>> followed_model("lob_trt"), followed_model("lob_drift"), followed_model("lob")
    ('lob', 'lob', 'lob')
    """
    return model.removesuffix(PLANS_SUFFIX).removesuffix(SCORE_SUFFIX)


def candidate_model(model: str) -> str:
    """Return the name of a model's candidate deployment.

    >>> candidate_model("lob")
    'lob_candidate'
    """
    return model + CANDIDATE_SUFFIX


def is_demo(run: str | None) -> bool:
    """Return whether a version's run is a demonstration's.

    >>> is_demo("20261121T092509-d901fa-demo"), is_demo("20261121T092509-d901fa"), is_demo(None)
    (True, False, False)
    """
    return run is not None and run.endswith(DEMO_RUN)


def is_candidate(model: str) -> bool:
    """Return whether a name is that of a candidate deployment."""
    return model.endswith(CANDIDATE_SUFFIX)


def may_produce(model: str) -> bool:
    """Return whether a production model may have this name: without the suffixes of candidates and companions.

    >>> may_produce("lob"), may_produce("lob_candidate"), may_produce("lob_trt"), may_produce("lob_drift")
    (True, False, False, False)
    """
    return not model.endswith((CANDIDATE_SUFFIX, PLANS_SUFFIX, SCORE_SUFFIX))
