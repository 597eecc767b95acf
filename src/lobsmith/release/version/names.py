"""Names of the Triton models that belong to one model: its candidate, its TensorRT plans, its reference score."""

PLANS_SUFFIX = "_trt"
SCORE_SUFFIX = "_drift"
CANDIDATE_SUFFIX = "_candidate"
DEMO_RUN = "-demo"
"""Ending of the run of a demonstration, which a version's manifest names."""


def plans_model(model: str) -> str:
    """Return the name under which the TensorRT plans of a model are served.

    >>> plans_model("lob")
    'lob_trt'
    """
    return model + PLANS_SUFFIX


def score_model(model: str) -> str:
    """Return the name under which the reference score of a model is served, for clients to tell drift by.

    >>> score_model("lob")
    'lob_drift'
    """
    return model + SCORE_SUFFIX


def companions(model: str) -> tuple[str, ...]:
    """Return the names of the models that may go with a model, each version under the number of the model's own.

    >>> companions("lob"), companions("lob_trt")
    (('lob_trt', 'lob_drift'), ())
    """
    return (plans_model(model), score_model(model)) if followed_model(model) == model else ()


def family(model: str) -> tuple[str, ...]:
    """Return the names of a production model, its candidate and the companions of both.

    >>> family("lob")[:4]
    ('lob', 'lob_trt', 'lob_drift', 'lob_candidate')
    """
    return tuple(name for one in (model, candidate_model(model)) for name in (one, *companions(one)))


def followed_model(model: str) -> str:
    """Return the name of the model that a companion goes with; any other name is returned as it is.

    >>> followed_model("lob_trt"), followed_model("lob_drift"), followed_model("lob")
    ('lob', 'lob', 'lob')
    """
    return model.removesuffix(PLANS_SUFFIX).removesuffix(SCORE_SUFFIX)


def candidate_model(model: str) -> str:
    """Return the name of the slot in which candidates of a model are judged.

    >>> candidate_model("lob")
    'lob_candidate'
    """
    return model + CANDIDATE_SUFFIX


def is_demo(run: str | None) -> bool:
    """Say whether a version of this run was made by a demonstration.

    >>> is_demo("20261121T092509-d901fa-demo"), is_demo("20261121T092509-d901fa"), is_demo(None)
    (True, False, False)
    """
    return run is not None and run.endswith(DEMO_RUN)


def is_candidate(model: str) -> bool:
    """Say whether a name is that of a slot of candidates."""
    return model.endswith(CANDIDATE_SUFFIX)


def may_produce(model: str) -> bool:
    """Say whether a name may be that of a production model: the endings of candidates and companions are taken.

    >>> may_produce("lob"), may_produce("lob_candidate"), may_produce("lob_trt"), may_produce("lob_drift")
    (True, False, False, False)
    """
    return not model.endswith((CANDIDATE_SUFFIX, PLANS_SUFFIX, SCORE_SUFFIX))
